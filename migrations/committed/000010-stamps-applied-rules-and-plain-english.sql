--! Previous: sha1:4ccf7f67e7f0f4b1dad85732ecd2f078919b8256
--! Hash: sha1:ce330249c1c1adf028a88767867ff695acfb8316
--! Message: stamps, applied rules and plain English

-- The state machine is whole in its table: what an action itself writes.
alter table app_public.request_transitions
  add column if not exists stamps jsonb not null default '{}'
  constraint request_transitions_stamps_object check (jsonb_typeof(stamps) = 'object');
comment on column app_public.request_transitions.stamps is 'What the action itself writes, a value for each column: "@now" is the time, "@caller" whoever does it, null clears.';
comment on constraint request_transitions_stamps_object on app_public.request_transitions is 'Stamps are a JSON object.';
update app_public.request_transitions set stamps = '{"is_deleted": true}' where action = 'DELETE';
update app_public.request_transitions set stamps = '{"submitted_at": "@now"}' where action = 'SUBMIT';
update app_public.request_transitions set stamps = '{"reviewed_at": "@now", "reviewed_by_id": "@caller"}' where action in ('APPROVE', 'REJECT');

-- The rules that have been applied (server/setup/migrate.ts).
create table if not exists app_private.applied_rules (
  file text primary key,
  hash text not null,
  applied_at timestamptz not null default clock_timestamp()
);
comment on table app_private.applied_rules is 'The files of db/rules and db/doors as they were last applied: a file whose hash differs is applied again.';
comment on column app_private.applied_rules.file is 'Its path below db/.';
comment on column app_private.applied_rules.hash is 'SHA-256 of its text and of the migrations that it was applied after.';
comment on column app_private.applied_rules.applied_at is 'When.';

-- Descriptions, messages of constraints and headlines in plain English.
update app_public.audit_actions
set description = 'A login failed. The entry has no actor; it is about the account, if there is one.'
where action = 'LOGIN_FAILED';
update app_public.audit_actions
set description = 'Sessions were ended: by their owner, by another login in the same browser,'
  ' or, without an actor, because a refresh token was used twice.'
where action = 'SESSION_REVOKE';
update app_public.audit_actions
set description = 'Somebody asked for a link to reset a password. The entry has no actor; it is about the account.'
where action = 'PASSWORD_RESET_REQUEST';
update app_public.audit_actions set description = 'A delivery of a webhook was sent again.' where action = 'WEBHOOK_RESEND';
update app_public.audit_actions set description = 'A mail that had failed was sent again.' where action = 'MAIL_RESEND';
update app_public.notification_kinds set headline = 'Awaiting your decision' where kind = 'SUBMITTED';
update app_public.notification_kinds set headline = 'Still awaiting your decision' where kind = 'REMINDER';
update app_public.notification_kinds set headline = 'Your daily digest' where kind = 'DIGEST';
update app_public.notification_kinds set headline = 'Your new account' where kind = 'ACCOUNT_CREATED';
update app_public.notification_kinds set headline = 'Reset your password' where kind = 'PASSWORD_RESET';
update app_public.role_permissions
set description = 'See all requests, including drafts and deleted ones.'
where permission = 'request.read_all';
update app_public.role_permissions
set description = 'Decide submitted requests of others, whoever they are assigned to.'
where permission = 'request.decide_any';
update app_public.role_permissions
set description = 'Register webhooks, see their deliveries, and send deliveries again.'
where permission = 'webhook.manage';
update app_public.request_statuses
set description = 'Its creator is still writing it, and only they and admins see it.'
where status = 'DRAFT';
update app_public.request_statuses
set description = 'It is awaiting a decision, and can no longer be edited.'
where status = 'SUBMITTED';
update app_public.request_statuses set description = 'It was approved, for good.' where status = 'APPROVED';
update app_public.request_statuses set description = 'It was rejected, for good.' where status = 'REJECTED';
update app_public.request_parties set description = 'Whoever created it.' where party = 'CREATOR';
update app_public.request_parties set description = 'Whoever can decide it: see app_hidden.can_decide.' where party = 'DECIDER';
update app_public.request_parties set description = 'Whoever can decide it, or may assign any request.' where party = 'ASSIGNER';

comment on column app_public.audit_actions.is_told is
  'Whether it is reported to others: to people by notifications, to programs by webhooks, to front ends by live updates.';
comment on column app_public.audit_logs.actor_id is
  E'@behavior -orderBy\nWho did it; null for a failed login, and for what was done by SQL.';
comment on column app_public.audit_logs.request_creator_id is
  E'@behavior -*\n'
  'The creator of that request, who never changes. It is kept here so that row-level security reads one index and not every '
  'request.';
comment on column app_public.audit_logs.ip_address is 'The client''s IP address, as the outermost trusted proxy saw it.';
comment on column app_public.audit_logs."timestamp" is
  'When it was done, by the clock at that moment, not the start of the transaction.';
comment on constraint audit_logs_subject_check on app_public.audit_logs is
  'An entry is about a request or about a person, not about both.';
comment on constraint audit_logs_request_creator_check on app_public.audit_logs is
  'An entry that names a request must also name its creator.';
comment on constraint audit_logs_metadata_check on app_public.audit_logs is 'Metadata must be a JSON object.';
comment on table app_private.idempotency_keys is 'Responses that are kept for 24 hours, in case the request is repeated.';
comment on column app_private.idempotency_keys.user_id is 'Whose key it is: the same key of two people is two keys.';
comment on column app_private.idempotency_keys.key is 'The key as the caller sent it.';
comment on column app_private.idempotency_keys.fingerprint is
  'A digest of method, path and body. It is keyed, because bodies can hold passwords.';
comment on column app_private.idempotency_keys.answer is 'The response: status, headers and body.';
comment on column app_private.idempotency_keys.created_at is 'When the first response was sent.';
comment on constraint idempotency_keys_key_length on app_private.idempotency_keys is
  'An Idempotency-Key must have 1 to 255 characters.';
comment on table app_public.notification_kinds is E'@behavior -*\nWhat people can be notified of.';
comment on column app_public.notification_kinds.action is 'The action that it reports; null if it is scheduled.';
comment on column app_public.notification_kinds.headline is 'The kind in words, with which the subject of its mail begins.';
comment on column app_public.notification_kinds.is_shown is 'Whether the inbox shows it; if not, it is only mailed.';
comment on column app_public.notification_kinds.is_mandatory is
  'Whether it is about the recipient''s account, so that its mail cannot be declined.';
comment on column app_public.notification_kinds.asks_for_decision is
  'Whether it asks for a decision, so that it is pointless once the recipient can no longer decide.';
comment on table app_public.notifications is
  E'@defaultOrderBy CREATED_AT_DESC\nWhat somebody was notified of: one row for each event and recipient.';
comment on column app_public.notifications.recipient_id is E'@behavior -*\nWho is notified.';
comment on column app_public.notifications.kind is
  E'@behavior -orderBy\n'
  'SUBMITTED, ASSIGNED and REMINDER ask for a decision; APPROVED and REJECTED report one; ACCOUNT_CREATED, ROLE_CHANGED, '
  'PASSWORD_CHANGED and PASSWORD_RESET are about the recipient''s account.';
comment on column app_public.notifications.event is
  E'@behavior -*\nWhat happened: the id of the audit entry, or the name of the scheduled event.';
comment on column app_public.notifications.actor_id is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWho did it; null if it was scheduled.';
comment on column app_public.notifications.created_at is 'When the notification was made.';
comment on column app_public.notifications.read_at is E'@behavior -orderBy +filterBy\nWhen the recipient marked it as read.';
comment on column app_public.notifications.mail_state is
  E'@behavior -*\n'
  'QUEUED: a job will send it. SENT: the SMTP server has accepted it. FAILED: it will not be sent. CANCELLED: it had become '
  'pointless. DIGEST: the next digest includes it. NONE: the recipient wants no mail about it.';
comment on column app_public.notifications.mail_attempts is E'@behavior -*\nHow many attempts were made to send it.';
comment on column app_public.notifications.mail_message_id is
  E'@behavior -*\n'
  'The Message-ID (RFC 5322, 3.6.4). It is the same at each attempt, so that a mail which was accepted twice can be '
  'recognized.';
comment on constraint notifications_mail_state_check on app_public.notifications is 'There is no such mail state.';
comment on constraint notifications_mailed_at_check on app_public.notifications is
  'A mail has a sending time exactly when it is SENT.';
comment on table app_private.notification_preferences is 'How people want to be notified by mail; without a row, AT_ONCE.';
comment on column app_private.notification_preferences.user_id is 'Whose preference it is.';
comment on column app_private.notification_preferences.kind is 'The kind of notification.';
comment on column app_private.notification_preferences.delivery is
  'AT_ONCE, DIGEST (with the next digest) or NONE. For the digest itself, NONE declines it and anything else keeps it.';
comment on constraint notification_preferences_delivery_check on app_private.notification_preferences is
  'The delivery must be AT_ONCE, DIGEST or NONE.';
comment on table app_public.users is
  E'@defaultOrderBy CREATED_AT_DESC\n'
  'A person. People are never removed, only deactivated, because the trail of what they did must keep their name.';
comment on column app_public.users.is_deleted is
  'Whether the person is deactivated: they can no longer log in, and all their sessions have ended.';
comment on constraint users_name_check on app_public.users is 'The name must have 1 to 200 characters, and must not be blank.';
comment on column app_private.credentials.user_id is 'Whose credentials they are.';
comment on column app_private.credentials.email is 'The email address as it was entered. It is compared in lower case.';
comment on table app_public.roles is
  E'@enum\n@enumName Role\n@behavior -*\n'
  'What a person is in the organisation. A role also has the permissions of every role of a lower level.';
comment on column app_public.roles.database_role is 'The PostgreSQL role that requests of people with this role run as.';
comment on table app_public.request_statuses is
  E'@enum\n@enumName RequestStatus\n@behavior -*\n'
  'The state of a request. How it moves from one to the next is in request_transitions.';
comment on table app_public.requests is
  E'@defaultOrderBy CREATED_AT_DESC\n@hideDeleted\nSomething that somebody asks approval for.';
comment on column app_public.requests.description is 'The details, in at most 10,000 characters.';
comment on column app_public.requests.status is 'The state of the request.';
comment on column app_public.requests.version is
  E'@behavior -attribute:aggregate\n'
  'A number that goes up by one with every change. If you name it in a change, the change fails with STALE_VERSION when '
  'another came first.';
comment on column app_public.requests.creator_id is 'Who created it.';
comment on column app_public.requests.assigned_to_id is
  E'@behavior -orderBy\n'
  'The one manager or admin who is asked to decide; null for any of them. An assignee who can no longer decide counts as null.';
comment on column app_public.requests.reviewed_by_id is E'@behavior -orderBy\nWho decided it; never the creator.';
comment on column app_public.requests.review_comment is
  'The comment on the decision, in at most 10,000 characters. A rejection always has one.';
comment on column app_public.requests.is_deleted is
  E'@behavior +filterBy\nWhether its creator deleted it, which only a draft allows. Only admins still see it.';
comment on constraint requests_assigned_to_not_creator on app_public.requests is 'A request cannot be assigned to its creator.';
comment on constraint requests_reviewed_by_not_creator on app_public.requests is 'Nobody can decide their own request.';
comment on constraint requests_submitted_at_check on app_public.requests is
  'A request that is not a draft must have a submission time.';
comment on constraint requests_reviewed_at_check on app_public.requests is 'A decided request must have a decision time.';
comment on constraint requests_reviewed_by_check on app_public.requests is 'A decided request must name its reviewer.';
comment on schema app_public is
  'The API: every table, column and function in it that is granted to a role is in the GraphQL schema.';
comment on schema app_hidden is
  'What policies and API functions call as the caller. It is granted to roles, but it is not part of the API.';
comment on schema app_private is 'Secrets and the owner''s own functions. No caller has access to it.';
comment on schema audit is 'Views for DBAs and auditors: who did what, and whether requests agree with their trail.';
comment on function app_private.is_blank(text) is
  'Does it contain no visible character? Unicode''s white space and zero-width characters are spelt out, so that it does not '
  'depend on a locale.';
comment on function app_private.uuid_v7() is
  'A time-ordered UUID, version 7 (RFC 9562, 5.7), so that inserts into a big table touch only its newest index pages.';
comment on table app_private.applied_rules is
  'The files of db/rules and db/doors as they were last applied. A file whose hash differs is applied again.';
comment on column app_private.applied_rules.file is 'The path of the file below db/.';
comment on column app_private.applied_rules.hash is 'SHA-256 of its text and of the migrations before it.';
comment on column app_private.applied_rules.applied_at is 'When it was last applied.';
comment on table app_private.sessions is 'One row for each login. Secrets are 256 random bits, and kept as SHA-256.';
comment on column app_private.sessions.refresh_hash is
  'SHA-256 of the one refresh token that is valid now; null for a session by cookie.';
comment on column app_private.sessions.expires_at is 'When the session ends at the latest.';
comment on column app_private.sessions.revoked_at is 'When it was ended before that.';
comment on column app_private.sessions.last_used_at is 'When it was last used, to the minute. See app_private.is_live.';
comment on column app_private.sessions.ip_address is 'The IP address that they logged in from.';
comment on column app_private.sessions.user_agent is 'The User-Agent that they logged in with.';
comment on table app_private.login_attempts is
  'Login attempts that are under way, and those that failed in the last 15 minutes. A success removes its row: only failures '
  'count.';
comment on column app_private.login_attempts.account_key is
  'SHA-256 of the email address in lower case, whether or not there is such an account.';
comment on column app_private.login_attempts.network is
  'The caller''s IPv4 address, or the /64 network of their IPv6 address, because that much belongs to one subscriber.';
comment on column app_private.login_attempts.attempted_at is 'When the attempt began.';
comment on column app_private.login_attempts.failed is 'True if the password was wrong; false while it is being checked.';
comment on table app_private.password_resets is 'Links by which a password can be reset, once.';
comment on column app_private.password_resets.secret_hash is 'SHA-256 of the secret in the link.';
comment on column app_private.password_resets.user_id is 'Whose password can be reset.';
comment on column app_private.password_resets.expires_at is 'When the link expires: 30 minutes after its mail was made.';
comment on table app_private.password_reset_requests is
  'Requests for such a link in the last 15 minutes. Those for addresses without an account count too; otherwise the allowance '
  'of a network would reveal which addresses have one.';
comment on column app_private.password_reset_requests.account_key is
  'SHA-256 of the email address in lower case, whether or not there is such an account.';
comment on column app_private.password_reset_requests.network is
  'The caller''s IPv4 address, or the /64 network of their IPv6 address.';
comment on column app_private.password_reset_requests.requested_at is 'When its job ran.';
comment on table app_public.request_parties is
  E'@behavior -*\nWhat a person can be to a request. app_hidden.my_parties tells what somebody is.';
comment on column app_public.request_parties.description is 'Who belongs to it.';
comment on table app_public.request_transitions is
  E'@behavior -*\nThe state machine: one row for each edge. What has no row here cannot happen.';
comment on column app_public.request_transitions.from_status is 'The status before; null if the request does not exist yet.';
comment on column app_public.request_transitions.action is 'The action that is taken.';
comment on column app_public.request_transitions.to_status is 'The status after.';
comment on column app_public.request_transitions.who is 'The party that may take the action.';
comment on column app_public.request_transitions.writes is 'The columns that the caller may set with it.';
comment on column app_public.request_transitions.stamps is
  'The columns that the action itself sets, each with its value: "@now" stands for the time, "@caller" for whoever acts; null '
  'clears.';
comment on constraint request_transitions_stamps_object on app_public.request_transitions is 'Stamps must be a JSON object.';
comment on table app_public.webhook_events is E'@behavior -*\nThe events that a webhook can receive.';
comment on column app_public.webhook_events.action is 'The action that it reports.';
comment on column app_public.webhook_events.description is 'What happened.';
comment on table app_public.webhooks is
  E'@defaultOrderBy CREATED_AT_DESC\nA URL that receives events as signed POST requests (Standard Webhooks). For admins.';
comment on column app_public.webhooks.url is
  E'@behavior -orderBy\nWhere events are sent: an http or https URL without a user name.';
comment on column app_public.webhooks.events is
  E'@behavior -orderBy -filterBy\n'
  'The events that it receives, of request.submitted, request.assigned, request.approved, request.rejected, user.created, '
  'user.updated, user.deactivated, user.reactivated.';
comment on column app_public.webhooks.signing_key is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'The key that its deliveries are signed with: "whsec_" and base64 of 256 random bits.';
comment on column app_public.webhooks.is_enabled is
  E'@behavior -orderBy\n'
  'Whether it is switched on. While it is off, nothing is sent. It is switched off automatically after a week of failures.';
comment on column app_public.webhooks.failing_since is
  E'@behavior -orderBy\n'
  'When it began to fail: the first failure since the last success, or since two days without a failure (no attempt waits '
  'that long for the next).';
comment on column app_public.webhooks.failed_at is E'@behavior -*\nWhen it last failed.';
comment on constraint webhooks_url_form on app_public.webhooks is
  'The URL must begin with https:// or http://, and must not contain a user name.';
comment on constraint webhooks_events_check on app_public.webhooks is 'A webhook needs at least one event.';
comment on table app_public.webhook_deliveries is
  E'@defaultOrderBy CREATED_AT_DESC\nWhat is sent to a webhook: one row for each event.';
comment on column app_public.webhook_deliveries.id is
  'Time-ordered UUID (version 7). It is the header webhook-id, and the same at each attempt.';
comment on column app_public.webhook_deliveries.webhook_id is E'@behavior -orderBy\nThe webhook that it is sent to.';
comment on column app_public.webhook_deliveries.audit_log_id is E'@behavior -orderBy\nThe audit entry that it reports.';
comment on column app_public.webhook_deliveries.event is E'@behavior -orderBy\nThe name of the event.';
comment on column app_public.webhook_deliveries.payload is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'The body that is sent. It shows things as they were when it was queued.';
comment on column app_public.webhook_deliveries.state is
  E'@behavior -orderBy\n'
  'QUEUED: a job will send it, or send it again. DELIVERED: the response was 2xx. FAILED: it will not be tried again. '
  'CANCELLED: the webhook was off.';
comment on column app_public.webhook_deliveries.attempts is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nHow many attempts were made to send it.';
comment on column app_public.webhook_deliveries.response_status is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nThe HTTP status of the last response.';
comment on column app_public.webhook_deliveries.delivered_at is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWhen the response was 2xx.';
comment on constraint webhook_deliveries_state_check on app_public.webhook_deliveries is 'There is no such delivery state.';
comment on constraint webhook_deliveries_delivered_at_check on app_public.webhook_deliveries is
  'A delivery has a delivery time exactly when it is DELIVERED.';
