use sinew_testbed::Postgres;

use super::server::Servers;

super::conforms!(servers());

fn servers() -> Servers {
    Servers::start("postgres", "postgres", Postgres::default())
}
