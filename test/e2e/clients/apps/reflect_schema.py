"""SQLAlchemy's reflection of a whole schema, printed so that two runs compare."""
import os
from sqlalchemy import MetaData, create_engine, inspect, select
from sqlalchemy.engine import URL

url = URL.create("postgresql+psycopg2")  # libpq's own variables say the rest
engine = create_engine(url)
i = inspect(engine)
print(i.default_schema_name, sorted(i.get_schema_names()))
for schema in ("public", "apps"):
    print(schema, sorted(i.get_table_names(schema=schema)), sorted(i.get_view_names(schema=schema)), i.get_enums(schema=schema))
    for table in sorted(i.get_table_names(schema=schema) + i.get_view_names(schema=schema)):
        print(schema, table)
        for column in i.get_columns(table, schema=schema):
            print("  ", column["name"], column["type"], column["nullable"], column["default"], column.get("comment"))
        print("  ", i.get_pk_constraint(table, schema=schema), i.get_foreign_keys(table, schema=schema))
        print("  ", i.get_indexes(table, schema=schema), i.get_unique_constraints(table, schema=schema))
        print("  ", i.get_check_constraints(table, schema=schema), i.get_table_comment(table, schema=schema))
    for view in sorted(i.get_view_names(schema=schema)):
        print(i.get_view_definition(view, schema=schema))
metadata = MetaData()
metadata.reflect(engine, schema="apps", views=True)
print(sorted(metadata.tables))
with engine.connect() as connection:
    items = metadata.tables["apps.items"]
    print(connection.execute(select(items.c.id, items.c.label).order_by(items.c.id)).fetchall())
