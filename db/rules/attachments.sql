-- Attachments. A file is uploaded in chunks, each in a transaction of its own, so that no connection waits for a slow caller;
-- the last transaction makes it an attachment. Until then it is nobody's: whoever or whatever dies meanwhile, leaves bytes alone,
-- and a job sweeps them. To attach a file or to remove it is an edit of the request: it may be done by whoever may edit it, while
-- they may, and raises its version.

create or replace function app_private.most_attachments()
  returns integer
  language sql
  immutable
as $$
  select 10
$$;
comment on function app_private.most_attachments() is 'How many attachments a request may have.';

create or replace function app_private.require_room(request_id uuid, added integer)
  returns void
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
begin
  if (select count(*) from app_public.attachments a where a.request_id = require_room.request_id) + added
    > app_private.most_attachments()
  then
    raise exception using errcode = 'RQ422', column = 'file',
      message = format('A request can have at most %s attachments.', app_private.most_attachments());
  end if;
end
$$;
comment on function app_private.require_room(uuid, integer) is
  'Raises RQ422 if a request that gets so many attachments more would have too many.';

create or replace function app_private.tg_attachments__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_attachment app_public.attachments := coalesce(new, old);
  v_creator_id uuid;
begin
  -- This locks the request, so that of two who take its last place one waits for the other; its guard refuses what is no edit.
  perform set_config('assent.action', 'UPDATE', true);
  update app_public.requests r set version = r.version + 1
  where r.id = v_attachment.request_id
  returning r.creator_id into v_creator_id;
  perform set_config('assent.action', '', true);
  perform app_private.require_room(v_attachment.request_id, 0);
  if tg_op = 'DELETE' then
    update app_private.files f set swept_after = clock_timestamp() where f.sha256 = old.sha256;
  end if;
  perform app_private.log_action(
    case tg_op when 'INSERT' then 'ATTACH' else 'DETACH' end,
    app_hidden.current_user_id(),
    request_id => v_attachment.request_id,
    request_creator_id => v_creator_id,
    metadata => jsonb_build_object('attachment_id', v_attachment.id, 'name', v_attachment.name,
      'media_type', v_attachment.media_type, 'size', v_attachment.size, 'sha256', v_attachment.sha256)
  );
  return null;
end
$$;
comment on function app_private.tg_attachments__audit() is
  'Makes each change of a request''s attachments a change of the request, and writes its entry. Raises RQ403 where the request '
  'cannot be edited, and RQ422 for one attachment too many.';

create or replace trigger _900_audit
  after insert or delete on app_public.attachments
  for each row execute function app_private.tg_attachments__audit();
create or replace trigger _100_no_change
  before update or truncate on app_public.attachments
  for each statement execute function app_private.tg__refuse();

-- Uploading --------------------------------------------------------------------------------------------------------

create or replace function app_private.upload_patience()
  returns interval
  language sql
  immutable
as $$
  select interval '10 minutes'
$$;
comment on function app_private.upload_patience() is
  'How long an upload may rest between two chunks before it counts as dead.';

create or replace function app_hidden.begin_upload(request_id uuid, expected_versions integer[], is_repeatable boolean)
  returns uuid
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_file_id uuid;
begin
  if not app_private.is_visible(request_id) then
    raise exception using errcode = 'RQ404', message = 'There is no such request.';
  elsif not is_repeatable then
    -- An edit that changes nothing is none; but whoever may not make it is told why.
    perform app_hidden.transition(request_id, 'UPDATE', expected_versions);
    perform app_private.require_room(request_id, 1);
  end if;
  perform pg_advisory_xact_lock(hashtextextended('uploads of ' || v_me, 0));
  if (select count(*) from app_private.files f where f.uploader_id = v_me and f.sha256 is null and f.swept_after > now())
    >= app_private.most_attachments()
  then
    raise exception using errcode = 'RQ429',
      message = format('You have %s uploads under way. Finish them first.', app_private.most_attachments());
  end if;
  insert into app_private.files (uploader_id, request_id, swept_after)
  values (v_me, request_id, now() + app_private.upload_patience())
  returning id into v_file_id;
  return v_file_id;
end
$$;
comment on function app_hidden.begin_upload(uuid, integer[], boolean) is
  'Begins to upload a file for a request, and returns its id. What attach() would refuse then is refused now, before the bytes '
  'are sent, unless the upload may be a repeat of one that has been answered. Raises RQ401, RQ404, RQ403, RQ409, RQ412 and RQ422 '
  'as attach() does, and RQ429 if the caller has too many uploads under way.';

create or replace function app_hidden.upload_chunk(file_id uuid, place integer, bytes bytea)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  -- Nobody relies on a chunk before attach() has committed, which makes durable all that was committed before.
  perform set_config('synchronous_commit', 'off', true);
  update app_private.files f
  set size = f.size + octet_length(bytes), chunks = f.chunks + 1, swept_after = now() + app_private.upload_patience()
  where f.id = file_id and f.uploader_id = v_me and f.sha256 is null
    -- All chunks but the last have the same length, so that the same bytes are always the same chunks.
    and f.chunks = place and f.size = place * 65536 and octet_length(bytes) between 1 and 65536;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such upload.';
  end if;
  insert into app_private.file_chunks (file_id, place, bytes) values (file_id, place, bytes);
exception
  when check_violation then
    raise exception using errcode = 'RQ422', column = 'file', message = 'A file must have at most 10 MB.';
end
$$;
comment on function app_hidden.upload_chunk(uuid, integer, bytea) is
  'Adds the next chunk, of 65,536 bytes unless it is the last, to a file that the caller is uploading. Raises RQ401, RQ404 if '
  'there is no such upload or this is not its next chunk, and RQ422 if the file becomes too large.';

create or replace function app_hidden.drop_upload(file_id uuid)
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  delete from app_private.files f where f.id = file_id and f.uploader_id = app_private.require_session() and f.sha256 is null
$$;
comment on function app_hidden.drop_upload(uuid) is
  'Deletes what has arrived of a file that the caller was uploading, unless it has become an attachment.';

create or replace function app_private.keep_file(file_id uuid, sha256 text)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_kept_id uuid;
begin
  update app_private.files f set sha256 = keep_file.sha256, swept_after = null where f.id = file_id;
exception
  when unique_violation then
    -- Somebody has uploaded these bytes before. This locks them, so that they are not swept meanwhile.
    update app_private.files f set swept_after = null where f.sha256 = keep_file.sha256 returning id into v_kept_id;
    if not found then
      raise exception using errcode = 'lock_not_available', message = 'The same bytes are being deleted.';
    end if;
    -- To know the hash of a file is no leave to read it: the bytes themselves have to be the same.
    if exists (
      select from (select c.place, c.bytes from app_private.file_chunks c where c.file_id = v_kept_id) kept
      full join (select c.place, c.bytes from app_private.file_chunks c where c.file_id = keep_file.file_id) sent using (place)
      where kept.bytes is distinct from sent.bytes
    ) then
      raise exception using errcode = 'object_not_in_prerequisite_state',
        message = format('The bytes of file %s are not those of file %s, which has the same SHA-256.', file_id, v_kept_id);
    end if;
    delete from app_private.files f where f.id = file_id;
end
$$;
comment on function app_private.keep_file(uuid, text) is
  'Ends an upload: the file has this SHA-256 from now on, or is deleted if there is one with the same bytes.';

create or replace function app_hidden.attach(file_id uuid, expected_versions integer[], facts jsonb)
  returns json
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_file app_private.files;
  v_new app_public.attachments;
  v_field text;
  v_message text;
begin
  select * into v_file
  from app_private.files f
  where f.id = file_id and f.uploader_id = app_private.require_session() and f.sha256 is null
  for update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such upload.';
  end if;
  -- This locks the request, and raises all that forbids to edit it.
  perform app_hidden.transition(v_file.request_id, 'UPDATE', expected_versions);
  v_new := jsonb_populate_record(v_new, facts || jsonb_build_object('request_id', v_file.request_id, 'size', v_file.size));
  begin
    perform app_private.keep_file(file_id, v_new.sha256);
    insert into app_public.attachments (request_id, name, media_type, size, sha256)
    values (v_new.request_id, v_new.name, v_new.media_type, v_new.size, v_new.sha256)
    returning * into v_new;
  exception
    when integrity_constraint_violation or sqlstate 'RQ422' then
      get stacked diagnostics v_field = column_name, v_message = message_text;
      perform app_private.raise_refusal(
        app_private.violations('app_public.attachments', jsonb_strip_nulls(to_jsonb(v_new))), sqlstate, v_field, v_message);
  end;
  return app_hidden.attachment_document(v_new);
end
$$;
comment on function app_hidden.attach(uuid, integer[], jsonb) is
  'Makes a file that the caller has uploaded an attachment of the request that it was uploaded for, by its name, media_type and '
  'sha256. Raises RQ401, RQ404 if there '
  'is no such upload or no such request, RQ403, RQ409 and RQ412 where the request cannot be edited, and RQ422 for a bad name and '
  'for an attachment too many.';

create or replace function app_hidden.detach(attachment_id uuid, expected_versions integer[] default null)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_request_id uuid;
begin
  perform app_private.require_session();
  select a.request_id into v_request_id
  from app_public.attachments a
  where a.id = attachment_id and app_private.is_visible(a.request_id);
  if found then
    perform app_hidden.transition(v_request_id, 'UPDATE', expected_versions);
    delete from app_public.attachments a where a.id = attachment_id;
  end if;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such attachment.';
  end if;
end
$$;
comment on function app_hidden.detach(uuid, integer[]) is
  'Removes an attachment. Raises RQ401, RQ404, and RQ403, RQ409 and RQ412 where the request cannot be edited.';

create or replace function app_hidden.attachment_chunk(attachment_id uuid, place integer)
  returns bytea
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return (
    select c.bytes
    from app_public.attachments a
    join app_private.files f on f.sha256 = a.sha256
    join app_private.file_chunks c on c.file_id = f.id and c.place = attachment_chunk.place
    where a.id = attachment_id and app_private.is_visible(a.request_id)
  );
end
$$;
comment on function app_hidden.attachment_chunk(uuid, integer) is
  'A chunk of an attachment that the caller sees, by its place from 0; null behind the last.';

grant execute on function
  app_hidden.begin_upload(uuid, integer[], boolean),
  app_hidden.upload_chunk(uuid, integer, bytea),
  app_hidden.drop_upload(uuid),
  app_hidden.attach(uuid, integer[], jsonb),
  app_hidden.detach(uuid, integer[]),
  app_hidden.attachment_chunk(uuid, integer)
  to assent_user, assent_manager, assent_admin;

-- Sweeping ---------------------------------------------------------------------------------------------------------

create or replace function app_private.sweep_files()
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  -- Of the same bytes, another attachment may be left. Whoever attaches them meanwhile has them locked.
  update app_private.files f set swept_after = null
  where f.swept_after <= now() and exists (select from app_public.attachments a where a.sha256 = f.sha256);
  delete from app_private.files f where f.id in (
    select s.id from app_private.files s
    where s.swept_after <= now() and not exists (select from app_public.attachments a where a.sha256 = s.sha256)
    order by s.swept_after
    limit 1000
    for update skip locked
  )
$$;
comment on function app_private.sweep_files() is
  'Deletes up to 1,000 files that no attachment names: uploads that were cut off, and what was removed from requests.';
