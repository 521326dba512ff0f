use sinew_testbed::Mariadb;

use super::server::Servers;

super::conforms!(servers());

fn servers() -> Servers {
    Servers::start("mariadb", "test", Mariadb::default())
}
