/** The calls of tests/support/generated_clients.py with the typescript-fetch client of OpenAPI Generator. */

import {
  AdministrationApi,
  Configuration,
  MyAccountApi,
  RegistrationAndLoginApi,
  ResponseError,
  TokensApi,
} from "./hourpass_client/index.js";
import { check, name, password, succeeded, url, userId } from "./expected.js";

const login = new RegistrationAndLoginApi(new Configuration({ basePath: url }));
const refused: unknown = await login
  .issueToken({ tokenRequest: { username: name, password: "wrong" } })
  .catch((error: unknown) => error);
check(refused instanceof ResponseError && refused.response.status === 401);

// The generated method sends JSON unless it is told otherwise.
const form = { body: new URLSearchParams({ username: name, password }), headers: {} };
const issued = succeeded("issueToken", await login.issueToken({}, form));
const configuration = new Configuration({ basePath: url, accessToken: issued.accessToken });

const mine = new MyAccountApi(configuration);
check(succeeded("readOwnProfile", await mine.readOwnProfile()).username === name);
const scope = ["predict", "train"];
const verified = await new TokensApi(configuration).verifyToken({ scope });
check(succeeded("verifyToken", verified).message === "Token is valid");

const api = new AdministrationApi(configuration);
const newUserByAdmin = { username: `${name}-new`, password };
const created = succeeded("createUser", await api.createUser({ newUserByAdmin }));
check(created.id === created.userId);
const reset = { userId: created.id, adminPasswordReset: {} };
check(succeeded("forcePasswordReset", await api.forcePasswordReset(reset)).code !== null);
const invited = await api.createInvitation({ invitationRequest: {} });
check(succeeded("createInvitation", invited).code !== null);

const first = succeeded("listUsers", await api.listUsers({ limit: 1 }));
const cursor = first.nextCursor ?? "";
const second = succeeded("listUsers", await api.listUsers({ limit: 1, cursor }));
check(second.users[0].id > first.users[0].id);

check(succeeded("readUser", await api.readUser({ userId })).isEnabled === false);
const changed = await api.changeUser({ userId, userChange: { isEnabled: true } });
check(succeeded("changeUser", changed).isEnabled === true);
const email = `${name}@new.example`;
const own = await mine.changeOwnProfile({ profileChange: { password, email } });
check(succeeded("changeOwnProfile", own).email === email);
