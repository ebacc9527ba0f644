--! Previous: sha1:581ddca29cc7e7993fef486adc4d0aa219f2ad8f
--! Hash: sha1:5a1116b193607105d2443f4008b18ebded42ab93
--! Message: an action for changes by SQL

-- What is done by SQL to tables that have no entries of a kind of their own
insert into app_public.audit_actions (action, is_told, description) values
  ('DATA_CHANGE', false, 'Rows were changed by SQL in a table that no other action names.')
on conflict (action) do nothing;
