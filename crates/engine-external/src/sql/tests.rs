use sinew_core::Kind;

use super::*;

#[track_caller]
fn refused(url: &str, part: &str) {
    let error = open(url).err().unwrap();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::InvalidArgument, "engine.address")
    );
    assert!(error.message().contains(part), "{url}: {}", error.message());
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_said() {
    refused("oracle://db", "begins with");
    #[cfg(feature = "sql-sqlite")]
    {
        refused("sqlite:", "path of a file");
        refused("sqlite::memory:", "path of a file");
        refused("sqlite://x/y.db", "shape");
        refused("sqlite:x.db?replicas=a", "no replicas");
        refused("sqlite:x.db?pool=0", "above 0");
        refused("sqlite:x.db?idle=soon", "a time");
    }
    #[cfg(feature = "sql-postgres")]
    {
        refused("postgres://a,b/x", "one primary");
        refused("postgres://a/x?replicas=b:x", "is not a host");
        refused("postgres://me:hunter2@a/x", "does not belong");
    }
    #[cfg(feature = "sql-mysql")]
    {
        let long = "n".repeat(40);
        refused(&format!("mysql://a/x?namespace={long}"), "leave 31");
    }
}

#[tokio::test]
async fn opening_does_not_need_the_server() {
    #[cfg(feature = "sql-postgres")]
    {
        let sql = open("postgres://127.0.0.1:1/x?pool_wait=200ms").unwrap();
        let error = sql.execute("select 1".into()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::Unavailable, "engine.unavailable")
        );
    }
    #[cfg(feature = "sql-mysql")]
    {
        let sql = open("mysql://127.0.0.1:1/x?pool_wait=200ms").unwrap();
        let error = sql.execute("select 1".into()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::Unavailable, "engine.unavailable")
        );
    }
}
