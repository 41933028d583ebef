# The calls of tests/support/generated_clients.py with the Ruby client of OpenAPI Generator.
require 'hourpass_client'

NAME = ENV.fetch('NAME')
PASSWORD = ENV.fetch('PASSWORD')
USER_ID = ENV.fetch('USER_ID').to_i
GROUP = ENV.fetch('GROUP')

def succeeded(call, answer)
  puts call
  answer
end

def check(condition)
  raise 'Not as expected' unless condition
end

HourpassClient.configure do |configuration|
  configuration.scheme, configuration.host = ENV.fetch('HOURPASS_URL').split('://')
end

login = HourpassClient::RegistrationAndLoginApi.new
credentials = HourpassClient::TokenRequest.new(username: NAME, password: 'wrong')
begin
  login.issue_token(token_request: credentials)
  raise 'A wrong password is refused'
rescue HourpassClient::ApiError => e
  check e.code == 401 && JSON.parse(e.response_body)['error'] == 'invalid_grant'
end
credentials.password = PASSWORD
issued = succeeded('issueToken', login.issue_token(token_request: credentials)) # always JSON
HourpassClient.configure.access_token = issued.access_token

mine = HourpassClient::MyAccountApi.new
check succeeded('readOwnProfile', mine.read_own_profile).username == NAME
verified = HourpassClient::TokensApi.new.verify_token(scope: %w[predict train])
check succeeded('verifyToken', verified).message == 'Token is valid'

api = HourpassClient::AdministrationApi.new
user = HourpassClient::NewUserByAdmin.new(username: "#{NAME}-new", password: PASSWORD)
created = succeeded('createUser', api.create_user(user))
check created.id == created.user_id
reset = { admin_password_reset: HourpassClient::AdminPasswordReset.new }
check succeeded('forcePasswordReset', api.force_password_reset(created.id, reset)).code
invited = api.create_invitation(HourpassClient::InvitationRequest.new)
check succeeded('createInvitation', invited).code

first = succeeded('listUsers', api.list_users(limit: 1))
second = succeeded('listUsers', api.list_users(limit: 1, cursor: first.next_cursor))
check second.users[0].id > first.users[0].id

check succeeded('readUser', api.read_user(USER_ID)).is_enabled == false
change = HourpassClient::UserChange.new(is_enabled: true)
check succeeded('changeUser', api.change_user(USER_ID, change)).is_enabled == true
own = HourpassClient::ProfileChange.new(password: PASSWORD, email: "#{NAME}@new.example")
check succeeded('changeOwnProfile', mine.change_own_profile(own)).email == "#{NAME}@new.example"

keys = HourpassClient::MyAPIKeysApi.new
new_key = HourpassClient::NewApiKey.new(name: 'new', expires_in_days: 1)
key = succeeded('createOwnApiKey', keys.create_own_api_key(new_key))
check key.key.start_with?("hp_#{key.id}") && key.expires_at > key.created_at
newest = succeeded('listOwnApiKeys', keys.list_own_api_keys(limit: 1)).api_keys[0]
check newest.id == key.id && newest.last_used_on.nil?
rotation = { api_key_rotation: HourpassClient::ApiKeyRotation.new(overlap_seconds: 60) }
rotated = succeeded('rotateOwnApiKey', keys.rotate_own_api_key(key.id, rotation))
check rotated.id != key.id && rotated.name == 'new'
check succeeded('revokeOwnApiKey', keys.revoke_own_api_key(rotated.id)).status == 'revoked'
renaming = HourpassClient::ApiKeyChange.new(name: 'changed')
renamed = keys.change_own_api_key(ENV.fetch('OWN_KEY_ID'), renaming)
check succeeded('changeOwnApiKey', renamed).name == 'changed'
labelling = HourpassClient::ApiKeyChange.new(label: 'changed')
labelled = api.change_api_key_of_user(USER_ID, ENV.fetch('USER_KEY_ID'), labelling)
check succeeded('changeApiKeyOfUser', labelled).label == 'changed'

groups = HourpassClient::GroupsApi.new
new_group = HourpassClient::NewGroup.new(name: "#{NAME}-team", scopes: ['predict:a-*'])
team = succeeded('createGroup', groups.create_group(new_group))
check team.scopes == ['predict:a-*']
check succeeded('addMemberToGroup', groups.add_member_to_group(team.name, USER_ID)).message
members = succeeded('listMembersOfGroup', groups.list_members_of_group(team.name)).members
check members.map(&:id) == [USER_ID]
removed = groups.remove_member_from_group(team.name, USER_ID)
check succeeded('removeMemberFromGroup', removed).message
group_change = HourpassClient::GroupChange.new(name: "#{GROUP}-changed")
changed_group = succeeded('changeGroup', groups.change_group(GROUP, group_change))
check changed_group.name == "#{GROUP}-changed"

disabling = HourpassClient::WebhookChange.new(is_enabled: false)
webhook = HourpassClient::WebhooksApi.new.change_webhook(ENV.fetch('WEBHOOK_ID').to_i, disabling)
check succeeded('changeWebhook', webhook).is_enabled == false
