package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/curfew-oidc/curfew/middleware/clitoken"
	"github.com/curfew-oidc/curfew/policy"
)

// An unavailableError is a provider or an API that does not answer.
type unavailableError struct {
	who string
	err error
}

func (e *unavailableError) Error() string { return e.who + " does not answer: " + e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

// A deniedError is a sign-in that was refused.
type deniedError struct{ description, uri string }

func (e *deniedError) Error() string { return "the sign-in was refused: " + e.description }

var (
	errInterrupted  = errors.New("interrupted; you are not signed in")
	errTooLate      = errors.New(`the code was not entered in time; to get a new one, run "cli login"`)
	errStepUp       = errors.New(`this call needs a more recent or a stronger sign-in: run "cli logout", then "cli login"`)
	errProbablyOver = errors.New(`so the sign-in is probably over: "cli call" finds out, "cli login" signs you in again`)
)

// explain returns what the user is told about an error, and the exit code.
func explain(err error, issuer string) (string, int) {
	var over *clitoken.EndedError
	var denied *deniedError
	var unavailable *unavailableError
	switch {
	case err == nil:
		return "", exitOK
	case errors.As(err, &over):
		return whyOver(over.Description), exitSignIn
	case errors.Is(err, clitoken.ErrNoLogin):
		return `You are not signed in. To sign in, run "cli login".`, exitSignIn
	case errors.Is(err, errProbablyOver), errors.Is(err, errStepUp):
		return "cli: " + err.Error(), exitSignIn
	case errors.As(err, &denied):
		return whyDenied(denied, issuer), exitRefused
	case errors.As(err, &unavailable), errors.Is(err, clitoken.ErrBusy):
		return "cli: " + briefly(err) + "\nNothing is lost, and nobody is signed out for it. Try again in a moment.", exitUnavailable
	}
	return "cli: " + briefly(err), exitFailed
}

// briefly says what went wrong, and not all of what somebody answered: a page that
// says "maintenance" may be long.
func briefly(err error) string {
	all := err.Error()
	text := fmt.Sprintf("%.400s", all)
	if len(text) < len(all) {
		text += "..."
	}
	return text
}

// next is what to do about a reason where signing in again is not all of it.
var next = map[policy.Reason]string{
	policy.ReasonAccountDisabled: "Ask your administrator.",
	policy.ReasonReplay:          "If you did not restore a backup of this folder, tell your administrator. To sign in again, run \"cli login\".",
}

// whyOver says why a login is over, and what to do.
func whyOver(description string) string {
	reason := policy.ReasonOf(description)
	text, detail := policy.SentenceFrom(description), strings.TrimPrefix(description, string(reason)+": ")
	switch {
	case reason == "":
		text, detail = "Your sign-in is over.", description
	case text != reason.Info().Sentence:
		detail = "" // the sentence says it all
	}
	if detail != "" {
		text += "\nThe provider says: " + strings.TrimSuffix(detail, "; sign in again") + "."
	}
	return text + "\n" + cmp.Or(next[reason], signInAgain)
}

const signInAgain = `To sign in again, run "cli login".`

var (
	usedOfMax = regexp.MustCompile(`\bused=(\d+) max=(\d+)\b`)
	address   = regexp.MustCompile(`https?://[^\s"'<>]*[^\s"'<>.,;:)]`)
)

// whyDenied says why nobody was signed in, and what to do.
func whyDenied(e *deniedError, issuer string) string {
	if n := usedOfMax.FindStringSubmatch(e.description); n != nil {
		page := e.uri
		if page == "" {
			page = address.FindString(e.description)
		}
		if page == "" {
			page = issuer
		}
		return fmt.Sprintf("You were not signed in, because you have too many sign-ins at once: %s in use, %s allowed.\n"+
			"End one of them at %s, or with \"cli logout\" where it is a command line. Then run \"cli login\" again.", n[1], n[2], page)
	}
	text := "You were not signed in: it was refused in the browser, or by the provider."
	if e.description != "" {
		text += "\nThe provider says: " + e.description + "."
	}
	return text
}

// describe says who is signed in, and until when.
func describe(l clitoken.Login, now time.Time) string {
	name := l.Name
	if name == "" {
		name = l.Subject
	}
	text := fmt.Sprintf("You are signed in as %s at %s", name, l.Issuer)
	if !l.SignedIn.IsZero() {
		text += ", since " + clock(l.SignedIn)
	}
	text += "."
	if !l.Ends.IsZero() {
		text += fmt.Sprintf("\nThe sign-in ends %s%s.", clock(l.Ends), left(l.Ends, now))
	}
	if !l.EndsUnused.IsZero() && (l.Ends.IsZero() || l.EndsUnused.Before(l.Ends)) {
		text += fmt.Sprintf("\nUnless it is used before, it ends %s%s.", clock(l.EndsUnused), left(l.EndsUnused, now))
	}
	if l.Ends.IsZero() && l.EndsUnused.IsZero() {
		text += "\nThe provider does not say when the sign-in ends."
	}
	return text
}

func clock(t time.Time) string { return t.Local().Format("Mon 2 Jan 15:04:05") }

func reached(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

func left(t, now time.Time) string {
	if reached(t, now) {
		return ", which has passed"
	}
	return fmt.Sprintf(", %s from now", t.Sub(now).Round(time.Second))
}

// printable takes out what a terminal would obey: some of what is printed comes from
// the network.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

// isTerminal reports whether a device shows what is written, and obeys some of it.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
