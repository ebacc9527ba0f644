--! Previous: sha1:850cf79bf8faa98a8c8b5e5d724ac9fc24b7616b
--! Hash: sha1:f9b1452f90545b6ca09aec2ca5918a793b5a932a
--! Message: validate credentials email check

alter table app_private.credentials validate constraint credentials_email_check;
