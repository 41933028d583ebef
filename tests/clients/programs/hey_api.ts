/** The calls of tests/support/generated_clients.py with the client of @hey-api/openapi-ts. */

import { urlSearchParamsBodySerializer } from "./hourpass_client/client/index.js";
import { client } from "./hourpass_client/client.gen.js";
import * as api from "./hourpass_client/index.js";
import { check, name, password, succeeded, url, userId } from "./expected.js";

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
