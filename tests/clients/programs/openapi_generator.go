// The calls of tests/support/generated_clients.py with the Go client of OpenAPI Generator.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

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
	useKeys(client, user, userId)
	useGroups(client.GroupsAPI, user, userId, name+"-team")
	webhookId, err := strconv.ParseInt(os.Getenv("WEBHOOK_ID"), 10, 64)
	require(err == nil, "the webhook")
	disabling := hourpass.NewWebhookChange()
	disabling.SetIsEnabled(false)
	webhook := client.WebhooksAPI.ChangeWebhook(user, webhookId).WebhookChange(*disabling)
	require(!succeeded("changeWebhook", webhook.Execute).IsEnabled, "disabled")
}

func useKeys(client *hourpass.APIClient, user context.Context, userId int64) {
	api := client.MyAPIKeysAPI
	newKey := hourpass.NewNewApiKey("new")
	newKey.SetExpiresInDays(1)
	key := succeeded("createOwnApiKey", api.CreateOwnApiKey(user).NewApiKey(*newKey).Execute)
	require(strings.HasPrefix(key.GetKey(), "hp_"+key.GetId()), "the key")
	require(key.ExpiresAt.After(key.CreatedAt), "the moments")
	keys := succeeded("listOwnApiKeys", api.ListOwnApiKeys(user).Limit(1).Execute).ApiKeys
	require(keys[0].Id == key.Id && keys[0].GetLastUsedOn() == "", "the newest key")
	rotation := hourpass.NewApiKeyRotation()
	rotation.SetOverlapSeconds(60)
	rotate := api.RotateOwnApiKey(user, key.Id).ApiKeyRotation(*rotation)
	rotated := succeeded("rotateOwnApiKey", rotate.Execute)
	require(rotated.Id != key.Id && rotated.Name == "new", "another key")
	revoked := succeeded("revokeOwnApiKey", api.RevokeOwnApiKey(user, rotated.Id).Execute)
	require(revoked.Status == "revoked", "the status")

	change := hourpass.NewApiKeyChange()
	change.SetName("changed")
	renaming := api.ChangeOwnApiKey(user, os.Getenv("OWN_KEY_ID")).ApiKeyChange(*change)
	require(succeeded("changeOwnApiKey", renaming.Execute).Name == "changed", "the name")
	change = hourpass.NewApiKeyChange()
	change.SetLabel("changed")
	keyId := os.Getenv("USER_KEY_ID")
	labelling := client.AdministrationAPI.ChangeApiKeyOfUser(user, userId, keyId)
	labelled := succeeded("changeApiKeyOfUser", labelling.ApiKeyChange(*change).Execute)
	require(labelled.GetLabel() == "changed", "the label")
}

func useGroups(api *hourpass.GroupsAPIService, user context.Context, userId int64, name string) {
	newGroup := hourpass.NewNewGroup(name)
	newGroup.SetScopes([]string{"predict:a-*"})
	team := succeeded("createGroup", api.CreateGroup(user).NewGroup(*newGroup).Execute)
	require(team.Scopes[0] == "predict:a-*", "the scopes")
	added := succeeded("addMemberToGroup", api.AddMemberToGroup(user, name, userId).Execute)
	require(added.Message != "", "the message")
	listed := succeeded("listMembersOfGroup", api.ListMembersOfGroup(user, name).Execute)
	require(listed.Members[0].Id == userId, "the member")
	removal := api.RemoveMemberFromGroup(user, name, userId)
	require(succeeded("removeMemberFromGroup", removal.Execute).Message != "", "the message")

	group := os.Getenv("GROUP")
	change := hourpass.NewGroupChange()
	change.SetName(group + "-changed")
	renamed := succeeded("changeGroup", api.ChangeGroup(user, group).GroupChange(*change).Execute)
	require(renamed.Name == group+"-changed", "the name")
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
