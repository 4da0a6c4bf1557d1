-- What happened in an account in an hour, as a number.
CREATE TABLE curfew_counts (
    account TEXT    NOT NULL,
    hour    INTEGER NOT NULL, -- since 1970
    name    TEXT    NOT NULL,
    n       INTEGER NOT NULL,
    PRIMARY KEY (account, hour, name)
) STRICT, WITHOUT ROWID;
