/** The calls of tests/support/generated_clients.py with openapi-fetch and the types of openapi-typescript. */

import createClient from "openapi-fetch";
import type { paths } from "./hourpass_client/schema.js";
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

const api = createClient<paths>({ baseUrl: url });
const refused = await api.POST("/token", { body: { username: name, password: "wrong" } });
check(refused.error?.error === "invalid_grant");

const issued = await api.POST("/token", {
  body: { username: name, password },
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
const token = succeeded("issueToken", issued.data).access_token;
api.use({
  onRequest: ({ request }) => request.headers.set("Authorization", `Bearer ${token}`),
});

const me = await api.GET("/me");
check(succeeded("readOwnProfile", me.data).username === name);
const scope = ["predict", "train"];
const verified = await api.GET("/verify", { params: { query: { scope } } });
check(succeeded("verifyToken", verified.data).message === "Token is valid");

const posted = await api.POST("/users", { body: { username: `${name}-new`, password } });
const created = succeeded("createUser", posted.data);
check(created.id === created.user_id);
const forced = await api.POST("/users/{user_id}/password-reset", {
  params: { path: { user_id: created.id } },
  body: {},
});
check(succeeded("forcePasswordReset", forced.data).code !== null);
const invited = await api.POST("/invitations", { body: {} });
check(succeeded("createInvitation", invited.data).code !== null);

const page = await api.GET("/users", { params: { query: { limit: 1 } } });
const first = succeeded("listUsers", page.data);
const cursor = first.next_cursor ?? "";
const next = await api.GET("/users", { params: { query: { limit: 1, cursor } } });
check(succeeded("listUsers", next.data).users[0].id > first.users[0].id);

const path = { user_id: userId };
const before = await api.GET("/users/{user_id}", { params: { path } });
check(succeeded("readUser", before.data).is_enabled === false);
const changed = await api.PATCH("/users/{user_id}", {
  params: { path },
  body: { is_enabled: true },
});
check(succeeded("changeUser", changed.data).is_enabled === true);
const email = `${name}@new.example`;
const own = await api.PATCH("/me", { body: { password, email } });
check(succeeded("changeOwnProfile", own.data).email === email);

const made = await api.POST("/me/api-keys", { body: { name: "new", expires_in_days: 1 } });
const key = succeeded("createOwnApiKey", made.data);
check(key.key.startsWith(`hp_${key.id}`) && key.scopes === null);
const keys = await api.GET("/me/api-keys", { params: { query: { limit: 1 } } });
const newest = succeeded("listOwnApiKeys", keys.data).api_keys[0];
check(newest.id === key.id && newest.last_used_on === null);
const rotation = await api.POST("/me/api-keys/{key_id}/rotate", {
  params: { path: { key_id: key.id } },
  body: { overlap_seconds: 60 },
});
const rotated = succeeded("rotateOwnApiKey", rotation.data);
check(rotated.id !== key.id && rotated.name === "new");
const revoked = await api.DELETE("/me/api-keys/{key_id}", {
  params: { path: { key_id: rotated.id } },
});
check(succeeded("revokeOwnApiKey", revoked.data).status === "revoked");
const renamed = await api.PATCH("/me/api-keys/{key_id}", {
  params: { path: { key_id: ownKeyId } },
  body: { name: "changed" },
});
check(succeeded("changeOwnApiKey", renamed.data).name === "changed");
const labelled = await api.PATCH("/users/{user_id}/api-keys/{key_id}", {
  params: { path: { user_id: userId, key_id: userKeyId } },
  body: { label: "changed" },
});
check(succeeded("changeApiKeyOfUser", labelled.data).label === "changed");

const team = `${name}-team`;
const newGroup = { name: team, scopes: ["predict:a-*"] };
const grouped = await api.POST("/groups", { body: newGroup });
check(succeeded("createGroup", grouped.data).scopes[0] === "predict:a-*");
const member = { params: { path: { name: team, user_id: userId } } };
const added = await api.PUT("/groups/{name}/members/{user_id}", member);
check(succeeded("addMemberToGroup", added.data).message !== "");
const listed = await api.GET("/groups/{name}/members", { params: { path: { name: team } } });
check(succeeded("listMembersOfGroup", listed.data).members[0].id === userId);
const removed = await api.DELETE("/groups/{name}/members/{user_id}", member);
check(succeeded("removeMemberFromGroup", removed.data).message !== "");
const changedGroup = await api.PATCH("/groups/{name}", {
  params: { path: { name: group } },
  body: { name: `${group}-changed` },
});
check(succeeded("changeGroup", changedGroup.data).name === `${group}-changed`);

const webhook = await api.PATCH("/webhooks/{webhook_id}", {
  params: { path: { webhook_id: webhookId } },
  body: { is_enabled: false },
});
check(!succeeded("changeWebhook", webhook.data).is_enabled);
