/** The calls of tests/support/generated_clients.py with the client of @hey-api/openapi-ts. */

import { urlSearchParamsBodySerializer } from "./hourpass_client/client/index.js";
import { client } from "./hourpass_client/client.gen.js";
import * as api from "./hourpass_client/index.js";
import {
  check,
  group,
  name,
  ownKeyId,
  password,
  succeeded,
  url,
  userId,
  userKeyId,
  webhookId,
} from "./expected.js";

client.setConfig({ baseUrl: url });
const refused = await api.issueToken({ body: { username: name, password: "wrong" } });
check(refused.error?.error === "invalid_grant");

const issued = await api.issueToken({
  body: { username: name, password },
  ...urlSearchParamsBodySerializer,
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
client.setConfig({ auth: succeeded("issueToken", issued.data).access_token });

check(succeeded("readOwnProfile", (await api.readOwnProfile()).data).username === name);
const verified = await api.verifyToken({ query: { scope: ["predict", "train"] } });
check(succeeded("verifyToken", verified.data).message === "Token is valid");

const posted = await api.createUser({ body: { username: `${name}-new`, password } });
const created = succeeded("createUser", posted.data);
check(created.id === created.user_id);
const forced = await api.forcePasswordReset({ path: { user_id: created.id }, body: {} });
check(succeeded("forcePasswordReset", forced.data).code !== null);
const invited = await api.createInvitation({ body: {} });
check(succeeded("createInvitation", invited.data).code !== null);

const first = succeeded("listUsers", (await api.listUsers({ query: { limit: 1 } })).data);
const query = { limit: 1, cursor: first.next_cursor ?? "" };
const second = succeeded("listUsers", (await api.listUsers({ query })).data);
check(second.users[0].id > first.users[0].id);

const path = { user_id: userId };
check(succeeded("readUser", (await api.readUser({ path })).data).is_enabled === false);
const changed = await api.changeUser({ path, body: { is_enabled: true } });
check(succeeded("changeUser", changed.data).is_enabled === true);
const email = `${name}@new.example`;
const own = await api.changeOwnProfile({ body: { password, email } });
check(succeeded("changeOwnProfile", own.data).email === email);

const made = await api.createOwnApiKey({ body: { name: "new", expires_in_days: 1 } });
const key = succeeded("createOwnApiKey", made.data);
check(key.key.startsWith(`hp_${key.id}`) && key.scopes === null);
const keys = succeeded("listOwnApiKeys", (await api.listOwnApiKeys({ query: { limit: 1 } })).data);
check(keys.api_keys[0].id === key.id && keys.api_keys[0].last_used_on === null);
const overlap = { path: { key_id: key.id }, body: { overlap_seconds: 60 } };
const rotated = succeeded("rotateOwnApiKey", (await api.rotateOwnApiKey(overlap)).data);
check(rotated.id !== key.id && rotated.name === "new");
const revoked = await api.revokeOwnApiKey({ path: { key_id: rotated.id } });
check(succeeded("revokeOwnApiKey", revoked.data).status === "revoked");
const ownKey = { path: { key_id: ownKeyId }, body: { name: "changed" } };
const renamed = succeeded("changeOwnApiKey", (await api.changeOwnApiKey(ownKey)).data);
check(renamed.name === "changed");
const userKey = { path: { ...path, key_id: userKeyId }, body: { label: "changed" } };
const labelled = succeeded("changeApiKeyOfUser", (await api.changeApiKeyOfUser(userKey)).data);
check(labelled.label === "changed");

const team = `${name}-team`;
const newGroup = await api.createGroup({ body: { name: team, scopes: ["predict:a-*"] } });
check(succeeded("createGroup", newGroup.data).scopes[0] === "predict:a-*");
const member = { path: { name: team, user_id: userId } };
check(succeeded("addMemberToGroup", (await api.addMemberToGroup(member)).data).message !== "");
const listed = await api.listMembersOfGroup({ path: { name: team } });
check(succeeded("listMembersOfGroup", listed.data).members[0].id === userId);
const removed = await api.removeMemberFromGroup(member);
check(succeeded("removeMemberFromGroup", removed.data).message !== "");
const groupChange = { path: { name: group }, body: { name: `${group}-changed` } };
const changedGroup = succeeded("changeGroup", (await api.changeGroup(groupChange)).data);
check(changedGroup.name === `${group}-changed`);

const disabling = { path: { webhook_id: webhookId }, body: { is_enabled: false } };
const webhook = succeeded("changeWebhook", (await api.changeWebhook(disabling)).data);
check(!webhook.is_enabled);
