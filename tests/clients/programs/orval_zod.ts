/** The zod schemas of orval add nothing to a body, and accept what the service answers. */

import * as schemas from "./hourpass_client/client.js";
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

async function send(method: string, path: string, body: unknown, token = ""): Promise<unknown> {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
  const response = await fetch(url + path, { method, headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const login = schemas.IssueTokenBody.parse({ username: name, password });
const issued = schemas.IssueTokenResponse.parse(await send("POST", "/token", login));
const token = succeeded("issueToken", issued).access_token;
const me = schemas.ReadOwnProfileResponse.parse(await send("GET", "/me", undefined, token));
check(succeeded("readOwnProfile", me).username === name);

const body = schemas.ChangeUserBody.parse({ is_enabled: true });
check(JSON.stringify(body) === '{"is_enabled":true}');
const path = `/users/${schemas.ChangeUserParams.parse({ user_id: userId }).user_id}`;
const changed = schemas.ChangeUserResponse.parse(await send("PATCH", path, body, token));
check(succeeded("changeUser", changed).is_enabled === true);

const email = `${name}@new.example`;
const own = schemas.ChangeOwnProfileBody.parse({ password, email });
check(JSON.stringify(own) === JSON.stringify({ password, email }));
const profile = schemas.ChangeOwnProfileResponse.parse(await send("PATCH", "/me", own, token));
check(succeeded("changeOwnProfile", profile).email === email);

const renaming = schemas.ChangeOwnApiKeyBody.parse({ name: "changed" });
check(JSON.stringify(renaming) === '{"name":"changed"}');
const ownKey = `/me/api-keys/${schemas.ChangeOwnApiKeyParams.parse({ key_id: ownKeyId }).key_id}`;
const renamed = await send("PATCH", ownKey, renaming, token);
const key = schemas.ChangeOwnApiKeyResponse.parse(renamed);
check(succeeded("changeOwnApiKey", key).name === "changed");

const labelling = schemas.ChangeApiKeyOfUserBody.parse({ label: "changed" });
check(JSON.stringify(labelling) === '{"label":"changed"}');
const keyIds = schemas.ChangeApiKeyOfUserParams.parse({ user_id: userId, key_id: userKeyId });
const userKey = `/users/${keyIds.user_id}/api-keys/${keyIds.key_id}`;
const labelled = await send("PATCH", userKey, labelling, token);
const keyOfUser = schemas.ChangeApiKeyOfUserResponse.parse(labelled);
check(succeeded("changeApiKeyOfUser", keyOfUser).label === "changed");

const groupChange = schemas.ChangeGroupBody.parse({ name: `${group}-changed` });
check(JSON.stringify(groupChange) === `{"name":"${group}-changed"}`);
const groupPath = `/groups/${schemas.ChangeGroupParams.parse({ name: group }).name}`;
const answer = await send("PATCH", groupPath, groupChange, token);
const changedGroup = schemas.ChangeGroupResponse.parse(answer);
check(succeeded("changeGroup", changedGroup).name === groupChange.name);

const disabling = schemas.ChangeWebhookBody.parse({ is_enabled: false });
check(JSON.stringify(disabling) === '{"is_enabled":false}');
const webhookPath = schemas.ChangeWebhookParams.parse({ webhook_id: webhookId });
const disabled = await send("PATCH", `/webhooks/${webhookPath.webhook_id}`, disabling, token);
const webhook = schemas.ChangeWebhookResponse.parse(disabled);
check(!succeeded("changeWebhook", webhook).is_enabled);
