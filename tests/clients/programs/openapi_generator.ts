/** The calls of tests/support/generated_clients.py with the typescript-fetch client of OpenAPI Generator. */

import {
  AdministrationApi,
  Configuration,
  GroupsApi,
  MyAPIKeysApi,
  MyAccountApi,
  RegistrationAndLoginApi,
  ResponseError,
  TokensApi,
  WebhooksApi,
} from "./hourpass_client/index.js";
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

const keys = new MyAPIKeysApi(configuration);
const newApiKey = { name: "new", expiresInDays: 1 };
const key = succeeded("createOwnApiKey", await keys.createOwnApiKey({ newApiKey }));
check(key.key.startsWith(`hp_${key.id}`) && key.scopes === null && key.expiresAt > key.createdAt);
const [newest] = succeeded("listOwnApiKeys", await keys.listOwnApiKeys({ limit: 1 })).apiKeys;
check(newest.id === key.id && newest.lastUsedOn === null);
const rotation = { keyId: key.id, apiKeyRotation: { overlapSeconds: 60 } };
const rotated = succeeded("rotateOwnApiKey", await keys.rotateOwnApiKey(rotation));
check(rotated.id !== key.id && rotated.name === "new");
const revoked = await keys.revokeOwnApiKey({ keyId: rotated.id });
check(succeeded("revokeOwnApiKey", revoked).status === "revoked");
const renaming = { keyId: ownKeyId, apiKeyChange: { name: "changed" } };
const renamed = succeeded("changeOwnApiKey", await keys.changeOwnApiKey(renaming));
check(renamed.name === "changed");
const labelling = { userId, keyId: userKeyId, apiKeyChange: { label: "changed" } };
const labelled = succeeded("changeApiKeyOfUser", await api.changeApiKeyOfUser(labelling));
check(labelled.label === "changed");

const groups = new GroupsApi(configuration);
const newGroup = { name: `${name}-team`, scopes: ["predict:a-*"] };
const team = succeeded("createGroup", await groups.createGroup({ newGroup }));
check(team.scopes[0] === "predict:a-*");
const member = { name: team.name, userId };
const added = succeeded("addMemberToGroup", await groups.addMemberToGroup(member));
check(added.message !== "");
const listed = await groups.listMembersOfGroup({ name: team.name });
check(succeeded("listMembersOfGroup", listed).members[0].id === userId);
const removed = await groups.removeMemberFromGroup(member);
check(succeeded("removeMemberFromGroup", removed).message !== "");
const groupChange = { name: `${group}-changed` };
const changedGroup = await groups.changeGroup({ name: group, groupChange });
check(succeeded("changeGroup", changedGroup).name === groupChange.name);

const webhookChange = { isEnabled: false };
const webhook = await new WebhooksApi(configuration).changeWebhook({ webhookId, webhookChange });
check(!succeeded("changeWebhook", webhook).isEnabled);
