package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"

	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
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

// migrate brings the schema to schemaVersion. The database's writer lock keeps
// several processes from doing so at once.
func (s *Store) migrate(ctx context.Context) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		// PRAGMA user_version is the caller's.
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS curfew_schema (version INTEGER NOT NULL) STRICT`); err != nil {
			return err
		}
		var version int
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM curfew_schema`).Scan(&version); err != nil {
			return err
		}
		if version > schemaVersion {
			return sqlkit.Newer(version, schemaVersion)
		}
		for version < schemaVersion {
			version++
			statements, err := schemaFiles.ReadFile(fmt.Sprintf("schema/%d.sql", version))
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(statements)); err != nil {
				return fmt.Errorf("schema version %d: %w", version, err)
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO curfew_schema (version) VALUES (?1)`, version); err != nil {
				return err
			}
		}
		return add(ctx, tx)
	})
}

// add makes the additions that are missing.
func add(ctx context.Context, tx *sql.Tx) error {
	for _, table := range additions {
		var there bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)`, table).Scan(&there); err != nil {
			return err
		}
		if there {
			continue
		}
		statements, err := schemaFiles.ReadFile("schema/" + table + ".sql")
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(statements)); err != nil {
			return fmt.Errorf("add %s: %w", table, err)
		}
	}
	return nil
}
