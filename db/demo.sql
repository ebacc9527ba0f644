-- The demo accounts of an embedded database; the password of each is assent-demo-password.
select app_private.register_user(d.email, d.name, d.role, app_private.password_digest('assent-demo-password'))
from (values
  ('admin@assent.test',    'Ada Admin',      'ADMIN'),
  ('manager@assent.test',  'Mia Manager',    'MANAGER'),
  ('manager2@assent.test', 'Max Manager',    'MANAGER'),
  ('user@assent.test',     'Uma User',       'USER'),
  ('user2@assent.test',    'Ugo User',       'USER')
) d (email, name, role)
where not exists (select from app_private.credentials c where lower(c.email) = d.email);
