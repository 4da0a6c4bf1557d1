-- One row says of one subject that all its sessions ended that began before.
CREATE TABLE curfew_fences (
    issuer   TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    due      INTEGER,          -- when a sweeper has to look at it, in microseconds since 1970; NULL: never
    document BLOB    NOT NULL,
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;

CREATE INDEX curfew_fences_due ON curfew_fences (due) WHERE due IS NOT NULL;
