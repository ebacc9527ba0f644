--! Previous: sha1:e0fe39e18194740264de09ee62f2ca21644e046e
--! Hash: sha1:972da22fa2b38717dc61a01e29102d25b2b86ff6
--! Message: texts of the requests that there are

--! no-transaction
-- The texts of the requests that there are already. What is written meanwhile has its text by the trigger, and is waited for.
-- Each batch is committed by itself, so that nobody waits for long; after an interruption, what is there is passed over.
do $$
declare
  v_batch uuid[];
  v_last uuid := '00000000-0000-0000-0000-000000000000';
begin
  loop
    v_batch := array(select id from app_public.requests where id > v_last order by id limit 1000);
    exit when v_batch = '{}';
    insert into app_private.request_texts (request_id, creator_id, created_at, text)
    select r.id, r.creator_id, r.created_at, app_private.searched_text(r.title, r.description)
    from app_public.requests r
    where r.id = any (v_batch) and not exists (select from app_private.request_texts t where t.request_id = r.id)
    on conflict do nothing;
    commit;
    v_last := v_batch[cardinality(v_batch)];
  end loop;
end
$$;
