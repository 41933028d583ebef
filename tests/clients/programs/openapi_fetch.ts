/** The calls of tests/support/generated_clients.py with openapi-fetch and the types of openapi-typescript. */

import createClient from "openapi-fetch";
import type { paths } from "./hourpass_client/schema.js";
import { check, name, password, succeeded, url, userId } from "./expected.js";

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
