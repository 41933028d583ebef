/** The calls of tests/support/generated_clients.py with the fetch client of orval. */

import * as api from "./hourpass_client/client.js";
import {
  check,
  group,
  name,
  ownKeyId,
  password,
  succeeded,
  userId,
  userKeyId,
  webhookId,
} from "./expected.js";

const refused = await api.issueToken({ username: name, password: "wrong" });
check(refused.status === 401 && refused.data.error === "invalid_grant");
const issued = await api.issueToken({ username: name, password }); // always JSON
if (issued.status !== 200) throw new Error(issued.data.message);
const token = succeeded("issueToken", issued.data).access_token;
const options = { headers: { Authorization: `Bearer ${token}` } };

type Answer = { status: number; data: unknown };
type Good<T extends Answer> = Extract<T, { status: 200 | 201 }>["data"];

async function done<T extends Answer>(call: string, answer: Promise<T>): Promise<Good<T>> {
  const { status, data } = await answer;
  return succeeded(call, status < 300 ? (data as Good<T>) : undefined);
}

check((await done("readOwnProfile", api.readOwnProfile(options))).username === name);
const scope = ["predict", "train"];
const verified = await done("verifyToken", api.verifyToken({ scope }, options));
check(verified.message === "Token is valid");

const user = { username: `${name}-new`, password };
const created = await done("createUser", api.createUser(user, options));
check(created.id === created.user_id);
const reset = api.forcePasswordReset(created.id, {}, options);
check((await done("forcePasswordReset", reset)).code !== null);
check((await done("createInvitation", api.createInvitation({}, options))).code !== null);

const first = await done("listUsers", api.listUsers({ limit: 1 }, options));
const cursor = first.next_cursor ?? "";
const second = await done("listUsers", api.listUsers({ limit: 1, cursor }, options));
check(second.users[0].id > first.users[0].id);

check((await done("readUser", api.readUser(userId, options))).is_enabled === false);
const change = api.changeUser(userId, { is_enabled: true }, options);
check((await done("changeUser", change)).is_enabled === true);
const email = `${name}@new.example`;
const own = await done("changeOwnProfile", api.changeOwnProfile({ password, email }, options));
check(own.email === email);

const newKey = { name: "new", expires_in_days: 1 };
const key = await done("createOwnApiKey", api.createOwnApiKey(newKey, options));
check(key.key.startsWith(`hp_${key.id}`) && key.scopes === null);
const keys = await done("listOwnApiKeys", api.listOwnApiKeys({ limit: 1 }, options));
check(keys.api_keys[0].id === key.id && keys.api_keys[0].last_used_on === null);
const rotation = api.rotateOwnApiKey(key.id, { overlap_seconds: 60 }, options);
const rotated = await done("rotateOwnApiKey", rotation);
check(rotated.id !== key.id && rotated.name === "new");
const revoked = await done("revokeOwnApiKey", api.revokeOwnApiKey(rotated.id, options));
check(revoked.status === "revoked");
const renaming = api.changeOwnApiKey(ownKeyId, { name: "changed" }, options);
check((await done("changeOwnApiKey", renaming)).name === "changed");
const labelling = api.changeApiKeyOfUser(userId, userKeyId, { label: "changed" }, options);
check((await done("changeApiKeyOfUser", labelling)).label === "changed");

const team = `${name}-team`;
const newGroup = api.createGroup({ name: team, scopes: ["predict:a-*"] }, options);
check((await done("createGroup", newGroup)).scopes[0] === "predict:a-*");
const added = api.addMemberToGroup(team, userId, options);
check((await done("addMemberToGroup", added)).message !== "");
const listed = api.listMembersOfGroup(team, {}, options);
check((await done("listMembersOfGroup", listed)).members[0].id === userId);
const removed = api.removeMemberFromGroup(team, userId, options);
check((await done("removeMemberFromGroup", removed)).message !== "");
const groupChange = api.changeGroup(group, { name: `${group}-changed` }, options);
check((await done("changeGroup", groupChange)).name === `${group}-changed`);

const webhook = api.changeWebhook(webhookId, { is_enabled: false }, options);
check(!(await done("changeWebhook", webhook)).is_enabled);
