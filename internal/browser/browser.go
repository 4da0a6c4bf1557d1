// Package browser drives a real browser, for tests of what people see.
//
// It is a module of its own, so that what drives the browser is in nobody's
// module graph but its own. The browser is the Chromium that is installed, headless,
// with a profile of its own in a directory of its own: two browsers share no cookie.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience bounds each step, generously: machines that run tests are busy.
const patience = time.Minute

// A Browser is one person's browser: a cookie jar, with tabs.
type Browser struct {
	t   testing.TB
	ctx context.Context
}

// A Tab is one of its tabs.
type Tab struct {
	t   testing.TB
	ctx context.Context
}

// executable finds Chromium.
func executable() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no Chromium is installed: as root, run apt-get install chromium")
}

// Start starts a browser. It ends with the test. Without script it runs none, as
// where a person has switched it off.
func Start(t testing.TB, script bool) *Browser {
	t.Helper()
	path, err := executable()
	require.NoError(t, err)
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options,
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("no-proxy-server", true), chromedp.Flag("lang", "en"),
		chromedp.WSURLReadTimeout(patience),
	)
	// Chromium's sandbox does not run as root, nor where a container forbids it. The
	// pages are ours.
	options = append(options, chromedp.NoSandbox)
	if !script {
		options = append(options, chromedp.Flag("blink-settings", "scriptEnabled=false"))
	}
	allocated, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewContext(allocated)
	t.Cleanup(stop)
	require.NoError(t, chromedp.Do(ctx))
	return &Browser{t: t, ctx: ctx}
}

// Tab opens a tab at an address.
func (b *Browser) Tab(address string) *Tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	b.t.Cleanup(cancel)
	tab := &Tab{t: b.t, ctx: ctx}
	// What a tab runs first ends with it; so it has no deadline of its own.
	require.NoError(b.t, chromedp.Do(ctx))
	tab.Go(address)
	return tab
}

func do(t *Tab, what string, steps ...chromedp.Action[chromedp.Void]) {
	t.t.Helper()
	run(t, what, chromedp.Steps(steps...))
}

func run[T any](t *Tab, what string, action chromedp.Action[T]) T {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		require.NoError(t.t, fmt.Errorf("%s: %w\n%s", what, err, t.seen()))
	}
	return result
}

// seen is what the tab shows, for an error.
func (t *Tab) seen() string {
	ctx, cancel := context.WithTimeout(t.ctx, 5*time.Second)
	defer cancel()
	address, err := chromedp.Run(ctx, chromedp.Location())
	if err != nil {
		return err.Error()
	}
	text, err := chromedp.Run(ctx, chromedp.Text("body"))
	if err != nil {
		return address + "\n" + err.Error()
	}
	return address + "\n" + text
}

// Go opens an address.
func (t *Tab) Go(address string) {
	t.t.Helper()
	do(t, "open "+address, chromedp.Navigate(address))
}

// Back goes back to the page before.
func (t *Tab) Back() {
	t.t.Helper()
	do(t, "back", chromedp.NavigateBack())
}

// Type enters text into an input, instead of what is in it.
func (t *Tab) Type(selector, text string) {
	t.t.Helper()
	do(t, "type into "+selector, chromedp.WaitVisible(selector), chromedp.Focus(selector),
		chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)), chromedp.SendKeys(selector, text))
}

// Press sends keys to what has the focus.
func (t *Tab) Press(keys string) {
	t.t.Helper()
	do(t, "press keys", chromedp.KeyEvent(keys))
}

// Click clicks an element that leads to another page, and waits for that. It
// returns the status of the page.
func (t *Tab) Click(selector string) int {
	t.t.Helper()
	do(t, "find "+selector, chromedp.WaitVisible(selector))
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, chromedp.Click(selector))
	if err != nil {
		require.NoError(t.t, fmt.Errorf("click %s: %w\n%s", selector, err, t.seen()))
	}
	return int(response.Status)
}

// Touch clicks an element that leads nowhere else, such as a check box.
func (t *Tab) Touch(selector string) {
	t.t.Helper()
	do(t, "touch "+selector, chromedp.WaitVisible(selector), chromedp.Click(selector))
}

// Wait waits until an element is there to see.
func (t *Tab) Wait(selector string) {
	t.t.Helper()
	do(t, "wait for "+selector, chromedp.WaitVisible(selector))
}

// Has reports whether there is an element now.
func (t *Tab) Has(selector string) bool {
	t.t.Helper()
	return run(t, "look for "+selector, chromedp.Evaluate[bool](fmt.Sprintf("document.querySelector(%q) !== null", selector)))
}

// Text is what an element shows.
func (t *Tab) Text(selector string) string {
	t.t.Helper()
	return run(t, "read "+selector, chromedp.Text(selector))
}

// Value is what was entered into an input.
func (t *Tab) Value(selector string) string {
	t.t.Helper()
	return run(t, "read "+selector, chromedp.Value(selector))
}

// Address is where the tab is.
func (t *Tab) Address() string {
	t.t.Helper()
	return run(t, "read the address", chromedp.Location())
}

// Look chooses a size and a colour scheme ("light" or "dark") for what follows.
func (t *Tab) Look(width, height int64, scheme string) {
	t.t.Helper()
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	do(t, "look", chromedp.EmulateViewport(width, height), func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, media)
		return chromedp.Void{}, err
	})
}

// screenshots is where they are kept: beside the tests, and not in git.
const screenshots = "screenshots"

// Screenshot keeps what the tab shows, the whole page, under the test's name.
func (t *Tab) Screenshot(name string) {
	t.t.Helper()
	png := run(t, "screenshot", chromedp.FullScreenshot(100))
	require.NotEmpty(t.t, png)
	require.NoError(t.t, os.MkdirAll(screenshots, 0o755))
	file := strings.NewReplacer("/", "_", " ", "_").Replace(t.t.Name()) + "-" + name + ".png"
	require.NoError(t.t, os.WriteFile(filepath.Join(screenshots, file), png, 0o644))
}

// Evaluate runs script of the test's own in the page of a tab.
func Evaluate[T any](t *Tab, script string) T {
	t.t.Helper()
	return run(t, "evaluate", chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// WaitFor waits until script of the test's own finds that something holds.
func (t *Tab) WaitFor(condition string) {
	t.t.Helper()
	for deadline := time.Now().Add(patience); !Evaluate[bool](t, condition); time.Sleep(50 * time.Millisecond) {
		require.True(t.t, time.Now().Before(deadline), "it does not come to: %s\n%s", condition, t.seen())
	}
}
