import java.util.List;

import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.*;
import org.openapitools.client.model.*;

/** The calls of tests/support/generated_clients.py with the Java client of OpenAPI Generator. */
public class OpenapiGenerator {
    static final String NAME = System.getenv("NAME");
    static final String PASSWORD = System.getenv("PASSWORD");

    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(System.getenv("HOURPASS_URL"));
        String token = logIn(new RegistrationAndLoginApi(client));
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + token));

        MyAccountApi mine = new MyAccountApi(client);
        require(mine.readOwnProfile().getUsername().equals(NAME), "readOwnProfile");
        List<String> scopes = List.of("predict", "train");
        String message = new TokensApi(client).verifyToken(scopes).getMessage();
        require(message.equals("Token is valid"), "verifyToken");
        administer(new AdministrationApi(client));
        ProfileChange own = new ProfileChange().password(PASSWORD).email(NAME + "@new.example");
        String email = mine.changeOwnProfile(own).getEmail();
        require(NAME.concat("@new.example").equals(email), "changeOwnProfile");
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

        UserPage first = api.listUsers(null, 1, null, null, null);
        require(first.getUsers().size() == 1, "listUsers");
        UserPage second = api.listUsers(first.getNextCursor(), 1, null, null, null);
        long previous = first.getUsers().get(0).getId();
        require(second.getUsers().get(0).getId() > previous, "listUsers");

        long id = Long.parseLong(System.getenv("USER_ID"));
        require(!api.readUser(id).getIsEnabled(), "readUser");
        UserRecord changed = api.changeUser(id, new UserChange().isEnabled(true));
        require(changed.getIsEnabled(), "changeUser");
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
