package pgstore

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The numbered files take the schema from the version before them to their own.
// The others add a table each, by whose name they go. No file is changed once it
// was released.
//
//go:embed schema/*.sql
var schemaFiles embed.FS

// schemaVersion is the number of the last numbered file. A program that knows only
// earlier ones does not start: a new number ends the rolling upgrades.
const schemaVersion = 1

// additions are tables that no earlier program knows, nor needs to: it goes on
// beside a later one.
var additions = []string{"curfew_counts", "curfew_fences"}

const (
	// The first number of all advisory locks of this package: "Curf".
	lockClass = 0x43757266
	// That of the locks of documents.
	documentLockClass = lockClass + 1
	// The lock of who changes the schema is of another kind, one number.
	schemaLock = lockClass<<32 | 0x6577
)

// migrate brings the schema to schemaVersion. A schema that is there already is
// only read: a role that may not create tables will do then.
func (s *Store) migrate(ctx context.Context) error {
	return s.do(ctx, func(c *pgx.Conn) error {
		var there bool
		if err := c.QueryRow(ctx, `SELECT to_regclass('curfew_schema') IS NOT NULL`).Scan(&there); err != nil {
			return err
		}
		if there {
			version, err := readVersion(ctx, c)
			if err != nil {
				return err
			}
			missing, err := missingAdditions(ctx, c)
			if err != nil || version == schemaVersion && len(missing) == 0 {
				return err
			}
			if err := create(ctx, c); err != nil {
				return fmt.Errorf("bring the schema from version %d to %d (missing: %v): %w", version, schemaVersion, missing, err)
			}
			return nil
		}
		return create(ctx, c)
	})
}

func missingAdditions(ctx context.Context, c *pgx.Conn) ([]string, error) {
	rows, err := c.Query(ctx, `SELECT t FROM unnest($1::text[]) t WHERE to_regclass(t) IS NULL`, additions)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func readVersion(ctx context.Context, c *pgx.Conn) (version int, err error) {
	err = c.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM curfew_schema`).Scan(&version)
	if err == nil && version > schemaVersion {
		err = refuse("the database has schema version %d, made by a newer version of Curfew; this one knows up to %d", version, schemaVersion)
	}
	return version, err
}

// create changes the schema, all or nothing. A lock keeps several processes from
// doing so at once.
func create(ctx context.Context, c *pgx.Conn) error {
	for _, statement := range []string{
		beginSQL,
		fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, schemaLock),
		`CREATE TABLE IF NOT EXISTS curfew_schema (version integer NOT NULL)`,
	} {
		if _, err := c.Exec(ctx, statement); err != nil {
			return err
		}
	}
	version, err := readVersion(ctx, c)
	if err != nil {
		return err
	}
	for version < schemaVersion {
		version++
		if err := runFile(ctx, c, fmt.Sprint(version)); err != nil {
			return fmt.Errorf("schema version %d: %w", version, err)
		}
		if _, err := c.Exec(ctx, fmt.Sprintf(`INSERT INTO curfew_schema (version) VALUES (%d)`, version)); err != nil {
			return err
		}
	}
	missing, err := missingAdditions(ctx, c)
	if err != nil {
		return err
	}
	for _, table := range missing {
		if err := runFile(ctx, c, table); err != nil {
			return fmt.Errorf("add %s: %w", table, err)
		}
	}
	_, err = c.Exec(ctx, `COMMIT`)
	return err
}

// runFile executes a file of the schema.
func runFile(ctx context.Context, c *pgx.Conn, name string) error {
	statements, err := schemaFiles.ReadFile("schema/" + name + ".sql")
	if err != nil {
		return err
	}
	// Several statements at once are for the simple protocol.
	_, err = c.PgConn().Exec(ctx, string(statements)).ReadAll()
	return err
}
