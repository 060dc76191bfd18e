## masked | shows
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY email) FROM customers

SELECT email FROM customers

SELECT email AS name FROM customers

SELECT ssn, id FROM customers

SELECT * FROM customers

TABLE customers

SELECT c.* FROM customers c

SELECT (c).email FROM customers c

SELECT (c.*).ssn FROM customers c

SELECT c FROM customers c

SELECT customers FROM customers

SELECT c::text FROM customers c

SELECT row(c.*) FROM customers c

SELECT row(email, ssn) FROM customers

SELECT email::varchar(60) FROM customers

SELECT CAST(email AS bytea) FROM customers

SELECT email || '' FROM customers

SELECT '' || ssn FROM customers

SELECT concat(email, ',', ssn) FROM customers

SELECT concat_ws('-', name, email) FROM customers

SELECT format('%s %L %I', email, ssn, name) FROM customers

SELECT lower(email), upper(email), initcap(email) FROM customers

SELECT reverse(email), reverse(reverse(email)) FROM customers

SELECT left(email, 50), right(email, 50) FROM customers

SELECT substr(email, 1, 60) FROM customers

SELECT substring(email from 1 for 60), overlay(email placing '' from 1 for 0) FROM customers

SELECT substring(email from '.*') FROM customers

SELECT regexp_replace(email, 'x{9}', ''), regexp_match(email, '.*') FROM customers

SELECT regexp_split_to_array(email, '#') FROM customers

SELECT split_part(email, '#', 1), string_to_array(email, '#') FROM customers

SELECT translate(email, '', ''), replace(email, '#', '') FROM customers

SELECT lpad(email, 60), rpad(email, 60), btrim(email), ltrim(email), rtrim(email) FROM customers

SELECT repeat(email, 1), quote_literal(email), quote_ident(email), quote_nullable(email) FROM customers

SELECT encode(email::bytea, 'hex'), encode(ssn::bytea, 'base64'), encode(email::bytea, 'escape') FROM customers

SELECT convert_from(convert_to(email, 'UTF8'), 'UTF8') FROM customers

SELECT to_json(email), to_jsonb(email), json_build_array(email), jsonb_build_object('e', email) FROM customers

SELECT row_to_json(c), to_jsonb(c) FROM customers c

SELECT to_jsonb(c) ->> 'email', to_jsonb(c) #>> '{email}', to_jsonb(c) -> 'email' FROM customers c

SELECT json_agg(c), jsonb_agg(email), json_object_agg(id, email) FROM customers c

SELECT jsonb_pretty(to_jsonb(c)) FROM customers c

SELECT jsonb_path_query(to_jsonb(c), '$.email') FROM customers c

SELECT value FROM customers c, jsonb_each_text(to_jsonb(c))

SELECT x.email FROM customers c, jsonb_to_record(to_jsonb(c)) AS x(email text)

SELECT x.email FROM (SELECT jsonb_agg(c) AS j FROM customers c) s, jsonb_populate_recordset(NULL::customers, j) x

SELECT array_agg(email), string_agg(email, ',') FROM customers

SELECT min(email), max(ssn) FROM customers

SELECT ARRAY(SELECT email FROM customers)

SELECT ARRAY[email, ssn] FROM customers

SELECT (ARRAY[email])[1] FROM customers

SELECT unnest(ARRAY[email, ssn]) FROM customers

SELECT array_to_string(array_agg(email), ',') FROM customers

SELECT first_value(email) OVER (), lag(email) OVER () FROM customers

SELECT coalesce(email, ''), nullif(email, ''), greatest(email, ''), least(email, 'zzzz') FROM customers

SELECT CASE WHEN true THEN email END, CASE id WHEN 0 THEN '' ELSE ssn END FROM customers

SELECT (SELECT email FROM customers WHERE id = 1)

SELECT (SELECT c.email) FROM customers c

SELECT e FROM (SELECT email AS e FROM customers) s

SELECT s.e || '' FROM (SELECT x.e FROM (SELECT email AS e FROM customers) x) s

WITH x AS (SELECT email AS e FROM customers) SELECT e FROM x

WITH x (a) AS MATERIALIZED (SELECT email FROM customers) SELECT lower(a) FROM x

WITH RECURSIVE x (n, e) AS (SELECT 1, email FROM customers WHERE id = 1 UNION ALL SELECT n + 1, e FROM x WHERE n < 3) SELECT e FROM x

SELECT email FROM customers UNION ALL SELECT 'x'

SELECT 'x' UNION ALL SELECT email FROM customers

(SELECT email FROM customers) UNION ALL (SELECT ssn FROM customers)

VALUES ((SELECT email FROM customers WHERE id = 1)), ('x')

SELECT v.* FROM (VALUES ((SELECT email FROM customers WHERE id = 1))) v

SELECT l.x FROM customers c, LATERAL (SELECT c.email AS x) l

SELECT l.x FROM customers c CROSS JOIN LATERAL (VALUES (c.email), (c.ssn)) l(x)

SELECT a.email FROM customers a JOIN orders o ON o.customer = a.id

SELECT c.b FROM customers AS c (a, n, b, d)

SELECT email FROM customer_view

SELECT e FROM customer_renamed

SELECT e || '' FROM customer_renamed

SELECT shout FROM customer_shouting

SELECT r FROM customer_rows

SELECT (r).email FROM customer_rows

SELECT j ->> 'email' FROM customer_json

SELECT mail FROM customer_stored

SELECT e FROM customer_union

SELECT v.e FROM customer_nested v

SELECT xmlelement(name e, email), xmlforest(ssn), xmlagg(xmlelement(name x, email)) FROM customers GROUP BY id, email, ssn

SELECT xmlserialize(content xmlelement(name e, email) AS text) FROM customers

COPY customers TO STDOUT

COPY customers (ssn, email) TO STDOUT WITH CSV HEADER

COPY customers TO STDOUT WITH (FORMAT csv, FORCE_QUOTE *, QUOTE '''')

COPY (SELECT lower(email) FROM customers) TO STDOUT

COPY (SELECT c FROM customers c) TO STDOUT

COPY (TABLE customer_renamed) TO STDOUT (DELIMITER '|')

BEGIN; DECLARE c CURSOR FOR SELECT email FROM customers; FETCH ALL FROM c

BEGIN; DECLARE c SCROLL CURSOR FOR SELECT email || '' FROM customers; FETCH LAST FROM c

PREPARE p AS SELECT email FROM customers; EXECUTE p

PREPARE p AS SELECT lower(email) FROM customers; EXECUTE p

SELECT email FROM ONLY customers

SELECT email FROM customers TABLESAMPLE SYSTEM (100)

SELECT email FROM customers OFFSET 0 ROWS FETCH FIRST 5 ROWS ONLY

SELECT secret FROM parts

SELECT secret FROM parts_1

SELECT secret FROM heir

SELECT email FROM customers, (SELECT 1) s (x)

SELECT pg_catalog.lower(email COLLATE "C") FROM customers

SELECT (email, id)::text FROM customers

SELECT ts_headline('simple', email, 'x'::tsquery), to_tsvector('simple', email)::text FROM customers

SELECT email::int FROM customers

SELECT (ssn || 'x')::date FROM customers

SELECT CAST(email AS uuid) FROM customers

SELECT inet(email) FROM customers

SELECT to_number(ssn, '000999990000') FROM customers

SELECT email FROM customers WHERE email IS DISTINCT FROM 'x'

INSERT INTO scratch SELECT 1, 'x' FROM customers WHERE id = 1 RETURNING (SELECT email FROM customers WHERE id = 1)

## filter | runs
SELECT id FROM customers WHERE email LIKE 'a%'

SELECT id FROM customers WHERE email = 'ada@example.org'

SELECT id FROM customers WHERE ssn ~ '^0'

SELECT id FROM customers WHERE email IN ('ada@example.org')

SELECT id FROM customers WHERE email = ANY (ARRAY['ada@example.org'])

SELECT id FROM customers WHERE email IS NULL

SELECT id FROM customers WHERE starts_with(email, 'a')

SELECT id FROM customers WHERE (email, id) > ('b', 0)

SELECT id FROM customers WHERE email BETWEEN 'a' AND 'b'

SELECT id FROM customers c WHERE c::text LIKE '%ada%'

SELECT id FROM customers c WHERE to_jsonb(c) ->> 'email' LIKE 'a%'

SELECT id FROM customers ORDER BY email

SELECT id, email FROM customers ORDER BY 2

SELECT count(*) FROM customers GROUP BY email

SELECT email, count(*) FROM customers GROUP BY 1

SELECT id FROM customers GROUP BY id, email HAVING email LIKE 'a%'

SELECT DISTINCT email FROM customers

SELECT DISTINCT ON (email) id FROM customers

SELECT count(*) FILTER (WHERE email LIKE 'a%') FROM customers

SELECT id, rank() OVER (ORDER BY email) FROM customers

SELECT id, row_number() OVER (PARTITION BY email) FROM customers

SELECT array_agg(id ORDER BY email) FROM customers

SELECT o.id FROM orders o JOIN customers c ON c.email = o.state

SELECT 1 FROM customers a JOIN customers b USING (email)

SELECT 1 FROM customers NATURAL JOIN customer_view

SELECT id FROM orders WHERE EXISTS (SELECT FROM customers WHERE email LIKE 'a%')

SELECT id FROM orders WHERE state IN (SELECT email FROM customers)

SELECT id FROM customers LIMIT (SELECT length(email) FROM customers WHERE id = 1)

SELECT id, generate_series(1, length(email)) FROM customers

SELECT CASE WHEN email LIKE 'a%' THEN pg_catalog.length('x') / 1 END FROM customers

SELECT id FROM (SELECT id, email AS e FROM customers) s WHERE e > 'b'

SELECT id FROM customer_view WHERE email LIKE 'a%'

SELECT id FROM customer_renamed ORDER BY e

SELECT id FROM customer_nested WHERE e LIKE 'a%'

SELECT id FROM customer_stored WHERE mail LIKE 'a%'

SELECT email FROM customers INTERSECT SELECT 'ada@example.org'

SELECT email FROM customers EXCEPT SELECT 'ada@example.org'

SELECT email FROM customers UNION SELECT 'x'

PREPARE p AS SELECT id FROM customers WHERE email LIKE $1

DECLARE c CURSOR WITH HOLD FOR SELECT id FROM customers ORDER BY email

SELECT id FROM customers WHERE substr(email, 1, 1) = 'a'

SELECT id FROM customers WHERE length(email) > 5

SELECT id FROM customers WHERE md5(email) = 'x'

SELECT id FROM customers WHERE NOT (email <> 'ada@example.org')

SELECT id FROM customers WHERE CASE WHEN email > 'b' THEN true ELSE false END

SELECT id FROM parts WHERE secret LIKE 'c%'

SELECT id FROM heir WHERE secret LIKE 'c%'

## derive,insert,update,ddl,merge,notify,function,copy-program | runs
INSERT INTO scratch SELECT id + 100, email FROM customers

INSERT INTO scratch (id, note) VALUES (200, (SELECT email FROM customers WHERE id = 1))

UPDATE scratch SET note = (SELECT email FROM customers WHERE id = 1)

WITH x AS (SELECT email FROM customers) INSERT INTO scratch SELECT 300, email FROM x LIMIT 1

MERGE INTO scratch s USING customers c ON s.id = c.id WHEN NOT MATCHED THEN INSERT VALUES (c.id + 400, c.email)

SELECT email AS e INTO mine FROM customers

CREATE TABLE mine AS SELECT email FROM customers

CREATE TABLE mine AS TABLE customers

CREATE VIEW mine AS SELECT email FROM customers

CREATE MATERIALIZED VIEW mine AS SELECT lower(email) AS e FROM customers

SELECT pg_notify('ch', email) FROM customers

SELECT set_config('application_name', email, false) FROM customers

SELECT note_it(email) FROM customers

COPY (SELECT email FROM customers) TO PROGRAM 'cat'

INSERT INTO scratch SELECT 500 + id, e FROM customer_renamed

UPDATE scratch SET note = c.email FROM customers c WHERE c.id = 1
