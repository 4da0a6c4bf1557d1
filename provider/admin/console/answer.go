package console

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// A message is a page that only says something. It is an error too.
type message struct {
	status      int
	Title, Text string
	SignIn      bool // leads to the page to sign in at
}

func (a message) Error() string { return a.Title }

const nothingChanged = "Nothing was changed. Please go back and try again."

var (
	signedOut = message{http.StatusUnauthorized, "You are not signed in", "Sign in to administer login sessions.", true}
	forbidden = message{http.StatusForbidden, "This is not for you to see",
		"Only those who administer this account may see or do this. If you should be one of them, ask another administrator.", false}
	noPage = message{http.StatusNotFound, "There is no such page",
		"The address is not complete, or what was here is gone: sessions that ended long ago are forgotten.", false}
	foreign = message{http.StatusForbidden, "This form was sent by another website",
		"For your safety it was not accepted, and nothing was changed. If you did not expect this page, close it.", false}
	tooLarge    = message{http.StatusRequestEntityTooLarge, "This form is too large", nothingChanged, false}
	badForm     = message{http.StatusBadRequest, "This form could not be read", nothingChanged, false}
	wrongMethod = message{http.StatusMethodNotAllowed, "This is not how this page is used", nothingChanged, false}
	busy        = message{http.StatusTooManyRequests, "Previews of yours are still running",
		"Nothing was changed. Go back and try again in a few seconds.", false}
	tryAgain = message{http.StatusServiceUnavailable, "Please try again",
		"This cannot be answered at the moment. Go back and try again in a few seconds.", false}
)

// fail answers with the page that an error calls for.
func (c *console) fail(v *visit, err error) {
	var answer message
	var fields policy.FieldErrors
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, admin.ErrUnauthenticated):
		answer = signedOut
		// RFC 9110 section 15.5.2: a 401 names a scheme.
		v.w.Header().Set("WWW-Authenticate", `Cookie realm="console"`)
	case errors.Is(err, admin.ErrForbidden):
		answer = forbidden
	case errors.Is(err, service.ErrBusy):
		v.w.Header().Set("Retry-After", strconv.Itoa(service.RetryAfter))
		answer = busy
	case errors.Is(err, service.ErrReadOnly):
		answer = message{http.StatusConflict, "The settings cannot be changed here", c.service.ReadOnly, false}
	case errors.Is(err, store.ErrNotFound), errors.Is(err, service.ErrNoUser):
		answer = noPage
	case errors.Is(err, service.ErrLive):
		answer = message{http.StatusConflict, "The session has not ended", "Applications are told when it does.", false}
	case errors.As(err, &fields):
		answer = message{http.StatusBadRequest, "Something is not right", fields.Error(), false}
	default:
		if v.ctx().Err() == nil {
			c.service.Failed(v.r, err)
		}
		v.w.Header().Set("Retry-After", strconv.Itoa(service.RetryAfter))
		answer = tryAgain
	}
	c.refuse(v, answer)
}

func (c *console) refuse(v *visit, a message) {
	v.account = "" // no menu: the page may be for somebody who may not know of it
	c.render(v, a.status, "answer", a.Title, "", a)
}
