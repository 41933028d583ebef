/** The zod schemas of orval add nothing to a body, and accept what the service answers. */

import * as schemas from "./hourpass_client/client.js";
import { check, name, password, succeeded, url, userId } from "./expected.js";

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
