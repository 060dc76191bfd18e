## delete,explain | changes orders
DELETE FROM orders

delete/**/from/**/orders

DELETE FROM orders *

DELETE FROM orders USING customers WHERE true

WITH gone AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM gone

WITH a AS (SELECT 1), b AS (DELETE FROM orders), c AS (SELECT 2) SELECT * FROM a, c

WITH RECURSIVE a AS (DELETE FROM orders RETURNING id) SELECT id FROM a

SELECT 1; DELETE FROM orders

SELECT 1;;;DELETE FROM orders;;

SELECT '; -- '; DELETE FROM orders

SELECT $$ ' $$; DELETE FROM orders

SELECT $x$ $$ $x$; DELETE FROM orders

SELECT 'a''; SELECT '; DELETE FROM orders

SELECT '\'; DELETE FROM orders; --'

SELECT E'\''; DELETE FROM orders --'

SELECT U&'\0027'; DELETE FROM orders

SELECT /* /* */ 1 */ 2; DELETE FROM orders

DELETE FROM public.orders

DELETE FROM "orders"

DELETE FROM U&"\006frders"

DELETE FROM U&"!006frders" UESCAPE '!'

DELETE FROM "public"."orders" AS select_nothing WHERE 1 = 1

PREPARE p AS DELETE FROM orders; EXECUTE p

PREPARE p (int) AS DELETE FROM orders WHERE id >= $1; EXECUTE p (0)

EXPLAIN ANALYZE DELETE FROM orders

EXPLAIN (ANALYZE, COSTS off) DELETE FROM orders

EXPLAIN (ANALYZE true, FORMAT json) WITH x AS (DELETE FROM orders RETURNING 1) SELECT * FROM x

COPY (DELETE FROM orders RETURNING id) TO STDOUT

BEGIN; DELETE FROM orders; COMMIT

BEGIN; SAVEPOINT a; DELETE FROM orders; RELEASE a; COMMIT

START TRANSACTION READ WRITE; DELETE FROM orders; END

BEGIN READ ONLY; COMMIT; DELETE FROM orders

DELETE FROM orders WHERE id IN (SELECT id FROM orders)

DELETE FROM order_view

DELETE FROM orders WHERE CURRENT_DATE > '1970-01-01'

DELETE FROM orders RETURNING (SELECT 1)

DECLARE c CURSOR WITH HOLD FOR SELECT * FROM orders; DELETE FROM orders; CLOSE c

SELECT 1 AS "DELETE"; DELETE FROM orders

## update,explain | changes orders
UPDATE orders SET state = 'x'

UPDATE ONLY orders SET state = DEFAULT

UPDATE orders SET (state, customer) = ('x', 2)

UPDATE orders SET (state, customer) = (SELECT 'x', 2)

UPDATE orders o SET state = c.name FROM customers c WHERE true

UPDATE orders SET state = 'x' WHERE id = id

WITH x AS (UPDATE orders SET state = 'x' RETURNING id) SELECT id FROM x

UPDATE order_view SET state = 'x'

EXPLAIN ANALYZE UPDATE orders SET state = 'x'

PREPARE p AS UPDATE orders SET state = $1; EXECUTE p ('x')

COPY (UPDATE orders SET state = 'x' RETURNING id) TO STDOUT WITH BINARY

/*+ SELECT */UPDATE orders SET state = 'x'

## insert,explain | changes orders
INSERT INTO orders VALUES (1000, 1, 'x')

INSERT INTO orders (id, customer, state) SELECT id + 500, customer, state FROM orders

INSERT INTO orders VALUES (1, 1, 'x') ON CONFLICT (id) DO UPDATE SET state = 'x'

INSERT INTO orders VALUES (1001, 1, 'x') ON CONFLICT DO NOTHING

INSERT INTO orders DEFAULT VALUES

WITH x AS (INSERT INTO orders VALUES (1002, 1, 'x') RETURNING *) TABLE x

INSERT INTO orders OVERRIDING SYSTEM VALUE VALUES (1003, 1, 'x')

INSERT INTO orders TABLE more_orders

INSERT INTO order_view (id, state) VALUES (1004, 'x')

EXPLAIN (ANALYZE) INSERT INTO orders VALUES (1005, 1, 'x')

PREPARE p AS INSERT INTO orders VALUES ($1, 1, 'x'); EXECUTE p (1006)

COPY (INSERT INTO orders VALUES (1007, 1, 'x') RETURNING id) TO STDOUT

## merge,update,insert,delete | changes orders
MERGE INTO orders o USING (VALUES (1)) v(id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET state = 'x'

MERGE INTO orders o USING (VALUES (1)) v(id) ON o.id = v.id WHEN MATCHED THEN DELETE

MERGE INTO orders o USING (VALUES (5000)) v(id) ON o.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, 'x')

MERGE INTO orders o USING customers c ON o.id = c.id WHEN MATCHED AND c.id = 1 THEN DELETE WHEN MATCHED THEN DO NOTHING

## do | changes orders
DO $$ BEGIN DELETE FROM orders; END $$

DO LANGUAGE plpgsql 'BEGIN EXECUTE ''DELETE FROM '' || ''orders''; END'

DO $do$ BEGIN EXECUTE $q$DELETE FROM orders$q$; END $do$

SELECT 1; DO $$ BEGIN TRUNCATE orders; END $$

## call | changes orders
CALL purge()

CALL public.purge()

CALL purge_at_least(0)

CALL purge_at_least(at_least => 0 + 0)

## function,unknown,explain | changes orders
SELECT purge_function()

SELECT public.purge_function()

SELECT * FROM purge_function()

SELECT count(*) FROM purge_function() AS t(x)

SELECT (SELECT purge_function())

SELECT CASE WHEN purge_function() IS NULL THEN 1 ELSE 2 END

SELECT id FROM staff ORDER BY purge_function()

SELECT id FROM staff WHERE purge_function() IS NOT NULL

SELECT id FROM staff LIMIT purge_function()

VALUES (purge_function())

SELECT ARRAY[purge_function()]

SELECT row_to_json(t) FROM (SELECT purge_function()) t

EXPLAIN ANALYZE SELECT purge_function()

PREPARE p AS SELECT purge_function(); EXECUTE p

PREPARE p (int) AS SELECT $1; EXECUTE p (purge_function())

DECLARE c CURSOR WITH HOLD FOR SELECT purge_function(); FETCH ALL FROM c

COPY (SELECT purge_function()) TO STDOUT

SELECT 5 !!! 5

SELECT 5 OPERATOR(public.!!!) 5

SELECT t.purge_by_row FROM staff t LIMIT 1

SELECT purge_by_row(t) FROM staff t LIMIT 1

SELECT sum_purging(id) FROM staff

SELECT (t).purge_by_row FROM staff t LIMIT 1

SELECT (SELECT t).purge_by_row FROM staff t LIMIT 1

SELECT s.purge_by_row FROM (SELECT * FROM staff) s LIMIT 1

SELECT sum_purging(id) OVER () FROM staff

SELECT id FROM staff t WHERE t.purge_by_row = 1

SELECT name FROM staff t ORDER BY t.purge_by_row

## admin | changes orders
SELECT query_to_xml('SELECT purge_function()', true, true, '')

SELECT query_to_xmlschema('SELECT 1', true, true, ''), query_to_xml('SELECT purge_function()', true, true, '')
