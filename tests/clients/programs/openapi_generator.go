// The calls of tests/support/generated_clients.py with the Go client of OpenAPI Generator.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"

	hourpass "hourpass_client"

	"golang.org/x/oauth2"
)

func main() {
	url, name, password := os.Getenv("HOURPASS_URL"), os.Getenv("NAME"), os.Getenv("PASSWORD")
	userId, err := strconv.ParseInt(os.Getenv("USER_ID"), 10, 64)
	require(err == nil, "USER_ID")
	configuration := hourpass.NewConfiguration()
	configuration.Servers = hourpass.ServerConfigurations{{URL: url}}
	client := hourpass.NewAPIClient(configuration)

	login := client.RegistrationAndLoginAPI.IssueToken(context.Background())
	credentials := hourpass.NewTokenRequest()
	credentials.SetUsername(name)
	credentials.SetPassword("wrong")
	_, _, err = login.TokenRequest(*credentials).Execute()
	refused := err.(*hourpass.GenericOpenAPIError).Model().(hourpass.ErrorBody)
	require(refused.GetError() == "invalid_grant", refused.GetError())
	credentials.SetPassword(password)
	issued := succeeded("issueToken", login.TokenRequest(*credentials).Execute)
	require(issued.GetToken() == issued.GetAccessToken(), "the two names of the token")

	// The generated method sends JSON. The library that the client imports sends the form.
	endpoint := oauth2.Endpoint{TokenURL: url + "/token", AuthStyle: oauth2.AuthStyleInParams}
	flow := oauth2.Config{Endpoint: endpoint}
	token, err := flow.PasswordCredentialsToken(context.Background(), name, password)
	require(err == nil, "the form")
	source := oauth2.StaticTokenSource(token)
	user := context.WithValue(context.Background(), hourpass.ContextOAuth2, source)

	me := succeeded("readOwnProfile", client.MyAccountAPI.ReadOwnProfile(user).Execute)
	require(me.GetUsername() == name, "the name")
	check := client.TokensAPI.VerifyToken(user).Scope([]string{"predict", "train"})
	require(succeeded("verifyToken", check.Execute).GetMessage() == "Token is valid", "the message")

	api := client.AdministrationAPI
	newUser := hourpass.NewNewUserByAdmin(name+"-new", password)
	created := succeeded("createUser", api.CreateUser(user).NewUserByAdmin(*newUser).Execute)
	require(created.GetId() == created.GetUserId(), "the ids")
	reset := hourpass.NewAdminPasswordReset()
	forced := api.ForcePasswordReset(user, created.GetId()).AdminPasswordReset(*reset)
	require(succeeded("forcePasswordReset", forced.Execute).GetCode() != "", "the code")
	invitation := hourpass.NewInvitationRequest()
	invited := api.CreateInvitation(user).InvitationRequest(*invitation)
	require(succeeded("createInvitation", invited.Execute).GetCode() != "", "the code")

	users := api.ListUsers(user).Limit(1)
	first := succeeded("listUsers", users.Execute)
	second := succeeded("listUsers", users.Cursor(first.GetNextCursor()).Execute)
	require(second.Users[0].Id > first.Users[0].Id, "the second page")

	before := succeeded("readUser", api.ReadUser(user, userId).Execute)
	require(!before.IsEnabled, "disabled")
	change := hourpass.NewUserChange()
	change.SetIsEnabled(true)
	after := succeeded("changeUser", api.ChangeUser(user, userId).UserChange(*change).Execute)
	require(after.IsEnabled, "enabled")
	own := hourpass.NewProfileChange(password)
	own.SetEmail(name + "@new.example")
	profile := client.MyAccountAPI.ChangeOwnProfile(user).ProfileChange(*own)
	changed := succeeded("changeOwnProfile", profile.Execute)
	require(changed.GetEmail() == name+"@new.example", "the address")
}

func succeeded[T any](call string, execute func() (*T, *http.Response, error)) *T {
	answer, _, err := execute()
	require(err == nil, fmt.Sprint(call, ": ", err))
	fmt.Println(call)
	return answer
}

func require(condition bool, text string) {
	if !condition {
		panic(text)
	}
}
