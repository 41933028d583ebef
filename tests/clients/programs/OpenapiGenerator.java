import java.util.List;

import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.*;
import org.openapitools.client.model.*;

/** The calls of tests/support/generated_clients.py with the Java client of OpenAPI Generator. */
public class OpenapiGenerator {
    static final String NAME = System.getenv("NAME");
    static final String PASSWORD = System.getenv("PASSWORD");
    static final long USER_ID = Long.parseLong(System.getenv("USER_ID"));

    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(System.getenv("HOURPASS_URL"));
        String token = logIn(new RegistrationAndLoginApi(client));
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + token));

        MyAccountApi mine = new MyAccountApi(client);
        require(mine.readOwnProfile().getUsername().equals(NAME), "readOwnProfile");
        List<String> scopes = List.of("predict", "train");
        String message = new TokensApi(client).verifyToken(null, scopes).getMessage();
        require(message.equals("Token is valid"), "verifyToken");
        administer(new AdministrationApi(client));
        ProfileChange own = new ProfileChange().password(PASSWORD).email(NAME + "@new.example");
        String email = mine.changeOwnProfile(own).getEmail();
        require(NAME.concat("@new.example").equals(email), "changeOwnProfile");
        useOwnKeys(new MyApiKeysApi(client));
        ApiKeyChange label = new ApiKeyChange().label("changed");
        ApiKeyRecord key = new AdministrationApi(client)
            .changeApiKeyOfUser(USER_ID, System.getenv("USER_KEY_ID"), label);
        require("changed".equals(key.getLabel()), "changeApiKeyOfUser");
        useGroups(new GroupsApi(client));
        long webhookId = Long.parseLong(System.getenv("WEBHOOK_ID"));
        WebhookRecord webhook = new WebhooksApi(client)
            .changeWebhook(webhookId, new WebhookChange().isEnabled(false));
        require(!webhook.getIsEnabled(), "changeWebhook");
    }

    static String logIn(RegistrationAndLoginApi api) throws ApiException {
        TokenRequest credentials = new TokenRequest().username(NAME);
        try {
            api.issueToken(credentials.password("wrong"));
            throw new AssertionError("a wrong password");
        } catch (ApiException refused) {
            require(refused.getCode() == 401, null);
            require(refused.getResponseBody().contains("invalid_grant"), null);
        }
        IssuedToken issued = api.issueToken(credentials.password(PASSWORD));
        require(issued.getAccessToken().equals(issued.getToken()), "issueToken");
        return issued.getAccessToken();
    }

    static void administer(AdministrationApi api) throws ApiException {
        NewUserByAdmin user = new NewUserByAdmin().username(NAME + "-new").password(PASSWORD);
        UserCreatedByAdmin created = api.createUser(user);
        require(created.getId().equals(created.getUserId()), "createUser");
        AdminPasswordReset reset = new AdminPasswordReset();
        AdminPasswordResetDone done = api.forcePasswordReset(created.getId(), reset);
        require(done.getCode() != null, "forcePasswordReset");
        InvitationCreated invited = api.createInvitation(new InvitationRequest());
        require(invited.getCode() != null, "createInvitation");

        UserPage first = api.listUsers(null, 1, null, null, null, null);
        require(first.getUsers().size() == 1, "listUsers");
        UserPage second = api.listUsers(first.getNextCursor(), 1, null, null, null, null);
        long previous = first.getUsers().get(0).getId();
        require(second.getUsers().get(0).getId() > previous, "listUsers");

        require(!api.readUser(USER_ID).getIsEnabled(), "readUser");
        UserRecord changed = api.changeUser(USER_ID, new UserChange().isEnabled(true));
        require(changed.getIsEnabled(), "changeUser");
    }

    static void useOwnKeys(MyApiKeysApi api) throws ApiException {
        NewApiKey newKey = new NewApiKey().name("new").expiresInDays(1);
        ApiKeyCreated key = api.createOwnApiKey(newKey);
        require(key.getExpiresAt().isAfter(key.getCreatedAt()), null);
        require(key.getKey().startsWith("hp_" + key.getId()), "createOwnApiKey");
        ApiKeyRecord newest = api.listOwnApiKeys(null, 1, null).getApiKeys().get(0);
        require(newest.getLastUsedOn() == null, null);
        require(newest.getId().equals(key.getId()), "listOwnApiKeys");
        ApiKeyRotation rotation = new ApiKeyRotation().overlapSeconds(60);
        ApiKeyCreated rotated = api.rotateOwnApiKey(key.getId(), rotation);
        require(!rotated.getId().equals(key.getId()), null);
        require(rotated.getName().equals("new"), "rotateOwnApiKey");
        ApiKeyRecord revoked = api.revokeOwnApiKey(rotated.getId());
        require(revoked.getStatus() == ApiKeyRecord.StatusEnum.REVOKED, "revokeOwnApiKey");
        ApiKeyChange name = new ApiKeyChange().name("changed");
        ApiKeyRecord renamed = api.changeOwnApiKey(System.getenv("OWN_KEY_ID"), name);
        require(renamed.getName().equals("changed"), "changeOwnApiKey");
    }

    static void useGroups(GroupsApi api) throws ApiException {
        List<String> scopes = List.of("predict:a-*");
        GroupRecord team = api.createGroup(new NewGroup().name(NAME + "-team").scopes(scopes));
        require(team.getScopes().equals(scopes), "createGroup");
        MemberAdded added = api.addMemberToGroup(team.getName(), USER_ID);
        require(!added.getMessage().isEmpty(), "addMemberToGroup");
        MemberPage page = api.listMembersOfGroup(team.getName(), null, null);
        require(page.getMembers().get(0).getId() == USER_ID, "listMembersOfGroup");
        MemberRemoved removed = api.removeMemberFromGroup(team.getName(), USER_ID);
        require(!removed.getMessage().isEmpty(), "removeMemberFromGroup");
        String name = System.getenv("GROUP") + "-changed";
        GroupRecord changed = api.changeGroup(System.getenv("GROUP"), new GroupChange().name(name));
        require(changed.getName().equals(name), "changeGroup");
    }

    static void require(boolean condition, String call) {
        if (!condition) {
            throw new AssertionError(call);
        }
        if (call != null) {
            System.out.println(call);
        }
    }
}
