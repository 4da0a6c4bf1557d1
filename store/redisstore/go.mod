// Sessions in Redis. It has a module of its own, with its driver.
module github.com/curfew-oidc/curfew/store/redisstore

go 1.26.0

replace github.com/curfew-oidc/curfew => ../..

require (
	github.com/curfew-oidc/curfew v0.1.0
	github.com/redis/go-redis/v9 v9.23.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
