-- The demo's history: what the people of demo.sql asked for in the last month, and what became of it. Each person takes their
-- steps through the functions of the API, so that every rule holds and the trail is complete. Then all of it is moved into the
-- past, which requires a superuser.
begin;

create temporary table demo_people on commit drop as
select split_part(c.email, '@', 1) as name, c.user_id as id, s.session_secret as secret
from app_private.credentials c
cross join lateral app_private.open_session(c.user_id, false, 'demo') s
where c.email like '%@assent.test';

-- `created`, `submitted` and `ended` say how long ago it was. The last step is `action`, taken by `actor`; `word` is the comment
-- of a decision, the new assignee, or the new description. Waiting requests were submitted in the first half of a span of 2 days,
-- so that no reminder falls due on the demo's first day.
create temporary table demo_requests on commit drop as
select gen_random_uuid() as id, d.*,
  created::interval as created_ago, submitted::interval as submitted_ago, ended::interval as ended_ago
from (values
  ('user', 'A second monitor for the support team',
    'Tickets on one screen, the customer''s system on the other. 24 inches are enough.', null,
    '29 days', '28 days 22:00', '27 days 04:00', 'APPROVE', 'manager',
    'Please order it through IT, so that it is in the inventory.'),
  ('user2', 'Train tickets to the customer in Hamburg', 'Kick-off on site, two people, one night.', 'manager2',
    '28 days 03:00', '28 days 02:30', '27 days 22:00', 'APPROVE', 'manager2', null),
  ('manager2', 'Renewal of the accounting software',
    'The contract ends this month. Same number of seats, 4 % more than last year.', null,
    '27 days', '26 days 23:00', '25 days', 'APPROVE', 'manager', 'Renew it for one year, not for three.'),
  ('user2', 'An espresso machine for the second floor', 'The queue downstairs is long every morning.', null,
    '26 days 05:00', '26 days 04:00', '24 days 02:00', 'REJECT', 'manager2',
    'The machine downstairs is six months old. Let us first see whether a second grinder helps.'),
  ('user', 'Parental leave from March to May', 'Three months, as discussed. Ugo takes over my customers.', 'manager',
    '25 days', '24 days 20:00', '24 days 18:00', 'APPROVE', 'manager', 'Congratulations! HR will send you the form.'),
  ('user2', 'The budget for the summer party', 'Food and music for 40 people, 1,800 euros in all.', null,
    '24 days 01:00', '23 days', '21 days 06:00', 'APPROVE', 'admin', 'Up to 1,500 euros. Please keep the receipts.'),
  ('user', 'Business class to the trade fair', 'It is a night flight, and the stand opens at nine.', 'manager',
    '22 days 06:00', '22 days 05:00', '21 days 20:00', 'REJECT', 'manager',
    'Business class is for flights of more than six hours. Take the flight of the day before instead.'),
  ('user', 'Access to the billing reports', 'To answer questions about invoices without asking accounting each time. Read only.',
    'manager2',
    '21 days', '20 days 21:00', '20 days', 'APPROVE', 'manager2', null),
  ('manager', 'A freelance designer for the new brochure', 'Ten days in all, at 600 euros a day.', null,
    '20 days 02:00', '19 days 23:00', '18 days', 'APPROVE', 'manager2', 'Approved for eight days. Come back if it takes longer.'),
  ('user2', 'Two days of training on PostgreSQL', 'Query plans and indexes. The course is held online.', 'manager',
    '19 days', '18 days 22:00', '17 days 03:00', 'APPROVE', 'manager',
    'Good choice. Please show the team afterwards what you have learnt.'),
  ('manager2', 'A second company car', 'Both teams are with customers on Tuesdays and Thursdays.', null,
    '18 days 04:00', '18 days', '16 days', 'REJECT', 'admin',
    'Not within this year''s budget. Rent one on those days, and ask again in January.'),
  ('user2', 'Trying this out', null, null,
    '17 days', null, '16 days 23:40', 'DELETE', 'user2', null),
  ('user', 'Headphones against the noise in the open office', null, null,
    '16 days', '15 days 22:00', '14 days 20:00', 'APPROVE', 'manager2', null),
  ('user2', 'Unpaid leave in the week of the release', 'A friend''s wedding abroad, Monday to Friday.', 'manager',
    '15 days', '14 days 23:00', '14 days 04:00', 'REJECT', 'manager',
    'We cannot do the release without you. Monday and Friday are fine: please ask for those.'),
  ('user2', 'New tyres for the delivery van', 'They will not pass the next inspection. Three offers are with accounting.',
    'manager2',
    '13 days', '12 days 22:00', '12 days 20:00', 'APPROVE', 'manager2', 'Take the second offer, and have it done this week.'),
  ('admin', 'A security review by an external company', 'Once a year, as our largest customer requires.', null,
    '12 days', '11 days 20:00', '9 days 02:00', 'APPROVE', 'manager', null),
  ('user', 'Advertisements on the local radio', 'Twenty spots in the two weeks before the open day.', null,
    '11 days', '10 days 20:00', '8 days', 'REJECT', 'manager2',
    'The last campaign brought three visitors. Put the money into the posters.'),
  ('user', 'Working from Lisbon for two weeks', 'One hour behind us, so all meetings stay as they are.', 'manager',
    '9 days', '8 days 22:00', '7 days', 'APPROVE', 'manager', 'Fine with me. Please ask HR about the insurance.'),
  ('user', 'Company bicycles', 'Three for the way between our two offices.', null,
    '8 days', null, '3 days', 'UPDATE', 'user',
    'Three for the way between our two offices. Offers: 2,400 euros to buy them, 95 euros a month to lease them.'),
  ('user', 'A replacement for my broken laptop', 'The screen flickers, and the battery lasts twenty minutes.', null,
    '6 days 12:00', '6 days 05:00', null, null, null, null),
  ('manager', 'A team workshop in autumn', 'Two days away from the office. I am still waiting for offers.', 'admin',
    '5 days', null, null, null, null, null),
  ('user2', 'Five licences for the design tool', 'The trial ends soon. 45 euros a month and person.', 'manager',
    '4 days 22:00', '4 days 10:00', null, null, null, null),
  ('user', 'A longer contract with the cleaning service', 'They offer 8 % less if we sign for two years.', 'manager',
    '3 days 08:00', '3 days 06:00', '10:00', 'ASSIGN', 'manager', 'manager2'),
  ('user2', 'The hotel bill of the trip to Hamburg',
    '118 euros, because the customer''s guest room was taken. The receipt is with accounting.', null,
    '2 days 20:00', '2 days 16:00', null, null, null, null),
  ('user', 'A course on data protection', 'Half a day, online, 190 euros.', 'manager2',
    '2 days 10:00', '2 days 04:00', null, null, null, null),
  ('user2', 'A better chair', null, null,
    '1 day 06:00', null, null, null, null, null),
  ('manager', 'A working student for the support team', 'Ten hours a week, from next month on.', null,
    '22:00', '20:00', null, null, null, null),
  ('manager2', 'More storage for the backups', 'It will be full in six weeks. 2 TB cost 40 euros a month.', 'manager',
    '19:00', '18:00', null, null, null, null),
  ('user2', 'Friday afternoon off', 'To move to my new flat.', 'manager2',
    '06:00', '05:00', null, null, null, null),
  ('user', 'A first-aid kit for the workshop', 'The old one has been past its date since spring.', null,
    '04:00', '03:00', null, null, null, null),
  ('admin', 'A new payroll provider', 'Ours stops at the end of the year. The comparison is in the shared folder.', null,
    '02:00', '00:50', null, null, null, null),
  ('manager2', 'Spare parts for the printer', null, null,
    '00:30', null, null, null, null, null)
) d (creator, title, description, assignee, created, submitted, ended, action, actor, word)
-- If a start was killed before it could record that this was done, the next one runs it again.
where not exists (select from app_public.requests);

do $$
declare
  r record;
  step record;
  v_id uuid;
begin
  for r in
    select d.*, a.id as assignee_id
    from demo_requests d left join demo_people a on a.name = d.assignee
    order by d.created_ago desc
  loop
    for step in
      select s.action, s.word, p.secret, other.id as word_id
      from (values
        (1, 'CREATE', r.creator, null, r.created_ago),
        (2, 'SUBMIT', r.creator, null, r.submitted_ago),
        (3, r.action, r.actor, r.word, r.ended_ago)
      ) s (number, action, person, word, ago)
      join demo_people p on p.name = s.person
      left join demo_people other on other.name = s.word
      where s.ago is not null
      order by s.number
    loop
      perform app_hidden.become(step.secret, '');
      case step.action
        when 'CREATE' then
          select c.id into strict v_id from app_public.create_request(r.title, r.description, r.assignee_id) c;
        when 'UPDATE' then
          perform app_public.update_request(v_id, description => step.word);
        when 'DELETE' then
          perform app_public.delete_request(v_id);
        when 'SUBMIT' then
          perform app_public.submit_request(v_id);
        when 'ASSIGN' then
          perform app_public.assign_request(v_id, step.word_id);
        when 'APPROVE' then
          perform app_public.approve_request(v_id, step.word);
        when 'REJECT' then
          perform app_public.reject_request(v_id, step.word);
      end case;
      perform set_config('role', 'none', true), set_config('assent.session', '', true);
      -- This is what the worker would do next; it is done now, while the request is still in the state after this step.
      perform app_private.dispatch(a.id) from app_public.audit_logs a where a.request_id = v_id and a.action = step.action;
    end loop;
    update demo_requests d set id = v_id where d.id = r.id;
  end loop;
end
$$;

-- Moving it into the past. This switches off the triggers of the guard and of the trail, which only a superuser can do; they are
-- on again before anybody else can see any of these rows.
set local session_replication_role = replica;
alter table app_public.audit_logs disable trigger _100_append_only;

update app_public.audit_logs a
set "timestamp" = now() - case a.action when 'CREATE' then d.created_ago when 'SUBMIT' then d.submitted_ago else d.ended_ago end
from demo_requests d
where a.request_id = d.id;

update app_public.requests r
set created_at = now() - d.created_ago,
  submitted_at = now() - d.submitted_ago,
  reviewed_at = case when r.reviewed_at is not null then now() - d.ended_ago end,
  updated_at = now() - coalesce(d.ended_ago, d.submitted_ago, d.created_ago)
from demo_requests d
where r.id = d.id;

-- The people existed before their requests.
update app_public.audit_logs a set "timestamp" = now() - interval '40 days'
from demo_people p
where a.user_id = p.id and a.action = 'USER_CREATE';
update app_public.users u set created_at = now() - interval '40 days' from demo_people p where u.id = p.id;

alter table app_public.audit_logs enable always trigger _100_append_only;
set local session_replication_role = origin;

-- Whoever has let a request wait was reminded. Nobody gets mails about the past; what is older than four days has been read.
select app_private.remind();
update app_public.notifications n
set mail_state = 'NONE',
  created_at = t.at,
  read_at = case when t.at < now() - interval '4 days' then t.at + interval '1 hour' end
from (
  select n.id,
    coalesce(a."timestamp", r.submitted_at + app_private.reminder_interval()
      * floor(extract(epoch from now() - r.submitted_at) / extract(epoch from app_private.reminder_interval()))) as at
  from app_public.notifications n
  join app_public.requests r on r.id = n.request_id
  left join app_public.audit_logs a on a.id::text = n.event
) t
where t.id = n.id;
select graphile_worker.complete_jobs(array(
  select j.id from graphile_worker.jobs j where j.task_identifier in ('dispatch', 'send_mail')));
delete from app_private.sessions s where s.user_agent = 'demo';

commit;
