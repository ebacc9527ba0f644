--! Previous: sha1:972da22fa2b38717dc61a01e29102d25b2b86ff6
--! Hash: sha1:a129fa1e701670c457c8324c8c74744893f575de
--! Message: index for searches of texts

--! no-transaction
create index concurrently if not exists request_texts_grams_idx on app_private.request_texts using gin ((app_private.grams_of(text) || array_to_tsvector(array[' ' || creator_id::text])));
