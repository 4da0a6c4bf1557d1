package sqlsessions_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/sqlsessions"
)

// appHost is where browsers think that the application is.
const appHost = "127.0.0.1:9999"

// The test binary is also an application, for tests that need several processes.
func TestMain(m *testing.M) {
	if issuer := os.Getenv("CURFEW_RP_TEST_ISSUER"); issuer != "" {
		if err := application(issuer, os.Getenv("CURFEW_RP_TEST_DB")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(enginetest.Main(m))
}

// application serves an application on a free port, which it prints, until its
// standard input ends. Its clock can be put forward: POST /clock?by=61s.
func application(issuer, path string) error {
	db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := sqlsessions.New(context.Background(), db)
	if err != nil {
		return err
	}
	var ahead atomic.Int64
	rp, err := middleware.New(middleware.Config{
		Issuer: issuer, ClientID: optest.Web, ClientSecret: optest.Web + "-secret", RedirectURL: optest.RedirectURI,
		Keys: [][]byte{bytes.Repeat([]byte{7}, 32)}, Store: store, RefreshAfter: time.Minute,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /clock", func(w http.ResponseWriter, r *http.Request) {
		by, err := time.ParseDuration(r.URL.Query().Get("by"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ahead.Add(int64(by))
	})
	mux.Handle("/", rp.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "page of %s with %s", middleware.SessionFrom(r.Context()).Subject, middleware.SessionFrom(r.Context()).AccessToken())
	})))
	fmt.Println(listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString(0)
		_ = server.Close()
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// process starts the application and returns its address.
func process(t *testing.T, issuer, path string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CURFEW_RP_TEST_ISSUER="+issuer, "CURFEW_RP_TEST_DB="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		require.NoError(t, cmd.Wait())
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// Two processes with one SQLite file, 20 requests at once, one refresh.
func TestOneRefreshInTwoProcesses(t *testing.T) {
	t.Parallel()
	var refreshes atomic.Int64
	provider := optest.Start(t, optest.Config{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("grant_type") == "refresh_token" {
				refreshes.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	}})
	path := filepath.Join(t.TempDir(), "shop.db")
	addresses := []string{process(t, provider.Issuer, path), process(t, provider.Issuer, path)}

	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	clients := make([]*http.Client, len(addresses))
	for i, address := range addresses {
		transport := &http.Transport{MaxIdleConnsPerHost: 32, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == appHost {
				addr = address
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}
		t.Cleanup(transport.CloseIdleConnections)
		clients[i] = &http.Client{Transport: transport, Jar: jar}
	}
	// Signed in at the first process, known at the second.
	status, body, form := visit(t, clients[0])
	require.Equal(t, "/login", form.Path, "%d %s", status, body)
	resp, err := clients[0].PostForm(provider.Issuer+"/login", url.Values{
		"id": {form.Query().Get("authRequestID")}, "username": {"alice"}, "password": {optest.Password},
	})
	require.NoError(t, err)
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Contains(t, string(page), "page of")

	for round := range 3 {
		for _, c := range clients {
			resp, err := c.Post("http://"+appHost+"/clock?by=40s", "", nil)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		}
		if round == 0 {
			continue // 40 s are not a minute yet
		}
		before := refreshes.Load()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				status, body, _ := visit(t, clients[i%2])
				assert.Equal(t, http.StatusOK, status)
				assert.Contains(t, body, "page of")
			})
		}
		wg.Wait()
		if round == 1 {
			require.EqualValues(t, before+1, refreshes.Load())
		} else {
			require.Equal(t, before, refreshes.Load(), "40 s after it")
		}
	}
}

// visit looks at a page of the application as a browser does, and returns what it shows
// in the end and where that is.
func visit(t *testing.T, c *http.Client) (status int, body string, at *url.URL) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+appHost+"/page", nil)
	require.NoError(t, err)
	for name, value := range map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document", "Accept": "text/html"} {
		req.Header.Set(name, value)
	}
	resp, err := c.Do(req)
	if !assert.NoError(t, err) {
		return 0, "", &url.URL{}
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	assert.NoError(t, err)
	return resp.StatusCode, string(page), resp.Request.URL
}
