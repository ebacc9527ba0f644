-- The data of requests: what a schema may say, and how data is held against it. It is JSON Schema 2020-12
-- (json-schema.org/draft/2020-12), but of its vocabulary only what is written here: with a keyword that was merely ignored, a
-- kind would promise what nobody checks. PostgreSQL has no JSON Schema, and no package of its own has an extension for it.

create or replace function app_private.json_types(datum jsonb)
  returns text[]
  language sql
  immutable
as $$
  select case
    when jsonb_typeof(datum) <> 'number' then array[jsonb_typeof(datum)]
    when datum::numeric = trunc(datum::numeric) then '{integer,number}'
    else '{number}'
  end
$$;
comment on function app_private.json_types(jsonb) is 'What JSON Schema calls a value: 1.0 is an integer, and a number.';

create or replace function app_private.data_fault(datum jsonb, schema jsonb)
  returns text
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_types text[] := app_private.json_types(datum);
  v_text text;
  v_number numeric;
begin
  if schema ? 'type' and not v_types && array(select jsonb_array_elements_text(jsonb_path_query_array(schema, '$.type[*]'))) then
    return format('This must be %s.', (
      select string_agg(case t when 'null' then 'null' when 'boolean' then 'true or false' when 'integer' then 'a whole number'
        when 'array' then 'a list' when 'object' then 'an object' else 'a ' || t end, ' or ')
      from jsonb_array_elements_text(jsonb_path_query_array(schema, '$.type[*]')) t));
  end if;
  if schema ? 'const' and datum <> schema -> 'const' then
    return format('This must be %s.', schema -> 'const');
  end if;
  if schema ? 'enum' and not exists (select from jsonb_array_elements(schema -> 'enum') e where e = datum) then
    return format('This must be one of %s.', (select string_agg(e #>> '{}', ', ') from jsonb_array_elements(schema -> 'enum') e));
  end if;

  case jsonb_typeof(datum)
    when 'number' then
      v_number := datum::numeric;
      return case
        when v_number < (schema -> 'minimum')::numeric then format('This must be at least %s.', schema -> 'minimum')
        when v_number > (schema -> 'maximum')::numeric then format('This must be at most %s.', schema -> 'maximum')
        when v_number <= (schema -> 'exclusiveMinimum')::numeric then
          format('This must be more than %s.', schema -> 'exclusiveMinimum')
        when v_number >= (schema -> 'exclusiveMaximum')::numeric then
          format('This must be less than %s.', schema -> 'exclusiveMaximum')
        when mod(v_number, (schema -> 'multipleOf')::numeric) <> 0 then
          format('This must be a multiple of %s.', schema -> 'multipleOf')
      end;
    when 'string' then
      v_text := datum #>> '{}';
      return case
        when char_length(v_text) < (schema -> 'minLength')::integer then
          format('This must have at least %s characters.', schema -> 'minLength')
        when char_length(v_text) > (schema -> 'maxLength')::integer then
          format('This must have at most %s characters.', schema -> 'maxLength')
        when v_text !~ (schema ->> 'pattern') then format('This must match %s.', schema ->> 'pattern')
      end;
    when 'array' then
      return case
        when jsonb_array_length(datum) < (schema -> 'minItems')::integer then
          format('This must have at least %s items.', schema -> 'minItems')
        when jsonb_array_length(datum) > (schema -> 'maxItems')::integer then
          format('This must have at most %s items.', schema -> 'maxItems')
        when schema -> 'uniqueItems' = 'true'
          and jsonb_array_length(datum) > (select count(distinct e) from jsonb_array_elements(datum) e) then
          'No two items may be the same.'
      end;
    else
      return null;
  end case;
end
$$;
comment on function app_private.data_fault(jsonb, jsonb) is
  'The first thing that is wrong with a value by its schema, apart from what it consists of; null if nothing is.';

create or replace function app_private.data_faults(datum jsonb, schema jsonb, path text default 'data')
  returns jsonb
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_fault text;
  v_faults jsonb := '[]';
  v_part record;
begin
  if jsonb_typeof(schema) = 'boolean' then
    return case when schema = 'true' then '[]' else jsonb_build_array(jsonb_build_object(
      'field', path, 'message', 'There is no such field.')) end;
  end if;
  v_fault := app_private.data_fault(datum, schema);
  if v_fault is not null then
    return jsonb_build_array(jsonb_build_object('field', path, 'message', v_fault));
  end if;

  if jsonb_typeof(datum) = 'object' then
    select coalesce(jsonb_agg(jsonb_build_object('field', path || '.' || name, 'message', 'This is required.')
      order by place), '[]') into v_faults
    from jsonb_array_elements_text(schema -> 'required') with ordinality r (name, place)
    where not datum ? name;
    for v_part in
      select e.key, e.value, coalesce(schema #> array['properties', e.key], schema -> 'additionalProperties') as schema
      from jsonb_each(datum) e
    loop
      if v_part.schema is not null then
        v_faults := v_faults || app_private.data_faults(v_part.value, v_part.schema, path || '.' || v_part.key);
      end if;
    end loop;
  elsif jsonb_typeof(datum) = 'array' and schema ? 'items' then
    for v_part in select place - 1 as place, e as value from jsonb_array_elements(datum) with ordinality i (e, place) loop
      v_faults := v_faults || app_private.data_faults(v_part.value, schema -> 'items', path || '.' || v_part.place);
    end loop;
  end if;
  return v_faults;
end
$$;
comment on function app_private.data_faults(jsonb, jsonb, text) is
  'Everything that is wrong with a value by its schema, as [{"field": "data.amount", "message": …}]: of each field the first '
  'fault, and of a field that is wrong as a whole no parts.';

create or replace function app_private.data_faults_of(r app_public.requests)
  returns jsonb
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
begin
  return (select app_private.data_faults(r.data, k.schema) from app_public.request_kinds k where k.id = r.kind_id);
end
$$;
comment on function app_private.data_faults_of(app_public.requests) is
  'What is wrong with the data of a request by the schema of its kind.';

-- What a schema may say ----------------------------------------------------------------------------------------------

create or replace function app_private.is_pattern(pattern text)
  returns boolean
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- What browsers and PostgreSQL read alike. Left out: references back and what looks around, whose cost has no bound; and
  -- options and classes that one of the two does not know.
  if char_length(pattern) > 200 or pattern ~ '^\*\*\*|\\[^dswDSW.^$*+?()\[\]{}|/\\-]|\(\?(?!:)|\[[.:=]|[*+?}]\+' then
    return false;
  end if;
  perform '' ~ pattern;
  return true;
exception
  when invalid_regular_expression then
    return false;
end
$$;
comment on function app_private.is_pattern(text) is 'Is it a regular expression that a schema may use?';

create or replace function app_private.keyword_fault(keyword text, datum jsonb)
  returns text
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_type text := jsonb_typeof(datum);
begin
  return case
    when keyword = 'type' then case
      when v_type not in ('string', 'array') or datum = '[]' or not jsonb_path_query_array(datum, '$[*]')
        <@ '["null", "boolean", "integer", "number", "string", "array", "object"]' then
        'This must be a type of JSON Schema, or a list of them.' end
    when keyword = 'enum' then case
      when v_type <> 'array' or datum = '[]' then 'This must be a list of values.' end
    when keyword in ('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum') then case
      when v_type <> 'number' then 'This must be a number.' end
    when keyword = 'multipleOf' then case
      when v_type <> 'number' or datum::numeric <= 0 then 'This must be a number above 0.' end
    when keyword in ('minLength', 'maxLength', 'minItems', 'maxItems') then case
      when not 'integer' = any (app_private.json_types(datum)) or datum::numeric not between 0 and 1000000 then
        'This must be a whole number from 0 to 1,000,000.' end
    when keyword = 'uniqueItems' then case
      when v_type <> 'boolean' then 'This must be true or false.' end
    when keyword = 'pattern' then case
      when v_type <> 'string' or not app_private.is_pattern(datum #>> '{}') then
        'This must be a regular expression of at most 200 characters, without references back and without looking around.' end
    when keyword = 'required' then case
      when v_type <> 'array' or exists (select from jsonb_array_elements(datum) e where jsonb_typeof(e) <> 'string') then
        'This must be a list of names.' end
    when keyword in ('title', 'description') then case
      when v_type <> 'string' then 'This must be a string.' end
    when keyword = 'properties' then case
      when v_type <> 'object' then 'This must be an object.'
      -- By this, the parts of data are told apart in the names of fields.
      when exists (select from jsonb_object_keys(datum) k where k !~ '^[a-z][A-Za-z0-9_]{0,49}$') then
        'Names must have 1 to 50 letters, digits and underscores, with a small letter first.' end
    when keyword in ('items', 'additionalProperties') then case
      when v_type not in ('object', 'boolean') then 'This must be a schema.' end
    when keyword in ('const', 'default', 'examples') then null
    else 'This keyword is not known here.'
  end;
end
$$;
comment on function app_private.keyword_fault(text, jsonb) is 'What is wrong with a keyword of a schema; null if nothing is.';

create or replace function app_private.schema_faults(schema jsonb, path text default 'schema', depth integer default 0)
  returns jsonb
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_keyword record;
  v_part record;
  v_fault text;
  v_faults jsonb := '[]';
begin
  if jsonb_typeof(schema) = 'boolean' and depth > 0 then
    return '[]';
  end if;
  v_fault := case
    when jsonb_typeof(schema) <> 'object' then 'This must be a schema.'
    when depth = 0 and schema -> 'type' is distinct from '"object"' then 'The type of the whole must be object.'
    when depth > 10 then 'A schema must not be nested more than 10 deep.'
  end;
  if v_fault is not null then
    return jsonb_build_array(jsonb_build_object('field', path, 'message', v_fault));
  end if;
  for v_keyword in select e.key, e.value, path || '.' || e.key as path from jsonb_each(schema) e loop
    v_fault := app_private.keyword_fault(v_keyword.key, v_keyword.value);
    if v_fault is not null then
      v_faults := v_faults || jsonb_build_object('field', v_keyword.path, 'message', v_fault);
    elsif v_keyword.key in ('items', 'additionalProperties') then
      v_faults := v_faults || app_private.schema_faults(v_keyword.value, v_keyword.path, depth + 1);
    elsif v_keyword.key = 'properties' then
      for v_part in select e.key, e.value from jsonb_each(v_keyword.value) e loop
        v_faults := v_faults || app_private.schema_faults(v_part.value, v_keyword.path || '.' || v_part.key, depth + 1);
      end loop;
    end if;
  end loop;
  return v_faults;
end
$$;
comment on function app_private.schema_faults(jsonb, text, integer) is
  'Everything that is wrong with the schema of a kind, as [{"field": "schema.properties.amount.type", "message": …}].';
