// A real browser, for tests of what people see, and what is shown to it. It has a module
// of its own so that the library's requirements do not grow.
module github.com/curfew-oidc/curfew/internal/browser

go 1.26.0

replace (
	github.com/curfew-oidc/curfew => ../..
	github.com/curfew-oidc/curfew/store/sqlitestore => ../../store/sqlitestore
)

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
	github.com/curfew-oidc/curfew v0.1.0
	github.com/ncruces/go-sqlite3 v0.37.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/crypto v0.58.0
)

require (
	github.com/curfew-oidc/curfew/store/sqlitestore v0.1.0
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/ncruces/go-sqlite3-wasm/v6 v6.5.35401 // indirect
	github.com/ncruces/julianday v1.0.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
