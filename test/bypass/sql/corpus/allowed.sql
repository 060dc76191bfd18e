## allowed | runs
SELECT 1

SELECT 'DROP TABLE orders'

SELECT $$DELETE FROM orders$$

SELECT 1 /* ; DROP TABLE orders; */

SELECT 1 -- ; DROP TABLE orders

SELECT "drop"."table" FROM (SELECT 1 AS "table") "drop"

SELECT E'\'; DROP TABLE orders; --'

SELECT U&'\0064rop'

SELECT id, state FROM orders WHERE state = 'delete from orders' ORDER BY id

SELECT id, name FROM customers ORDER BY id

SELECT count(*), count(id), max(id) FROM customers

SELECT upper(name), length(name), id * 2 FROM customers WHERE id = 1

SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer ORDER BY o.id LIMIT 5

SELECT id, n FROM customer_renamed ORDER BY id

SELECT id, name FROM customer_stored WHERE id = 1

SELECT c.name, s.n FROM customers c, LATERAL (SELECT count(*) AS n FROM orders o WHERE o.customer = c.id) s ORDER BY 1

WITH x AS (SELECT id FROM orders WHERE state = 'new') SELECT count(*) FROM x

SELECT state, count(*) FROM orders GROUP BY state HAVING count(*) > 0

SELECT rank() OVER (ORDER BY id), id FROM orders

BEGIN; SELECT 1; COMMIT

BEGIN; SAVEPOINT a; SELECT count(*) FROM orders; ROLLBACK TO a; COMMIT

DECLARE c CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id; FETCH 2 FROM c; CLOSE c

SHOW server_version_num

SET statement_timeout = '5s'

SET application_name = 'drop table orders'

SELECT relname FROM pg_class WHERE relname = 'orders'

SELECT column_name FROM information_schema.columns WHERE table_name = 'orders' ORDER BY 1

SELECT coalesce(NULL, 'x'), nullif(1, 2), greatest(1, 2), CASE WHEN true THEN 1 END

SELECT to_char(now(), 'YYYY') = to_char(now(), 'YYYY'), age(now(), now()), date_trunc('day', now()) = date_trunc('day', now())

SELECT jsonb_build_object('a', 1) ->> 'a', '[1,2]'::jsonb -> 0, array_agg(id ORDER BY id) FROM orders WHERE id < 3

SELECT generate_series(1, 3), unnest(ARRAY['a', 'b', 'c'])

VALUES (1, 'a'), (2, 'b')

TABLE staff

SELECT current_user = current_user, current_setting('server_encoding')
