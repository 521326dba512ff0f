//! `Sql` over SQLite, PostgreSQL and MariaDB or MySQL.
