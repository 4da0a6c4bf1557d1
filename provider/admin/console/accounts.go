package console

import (
	"net/http"
	"slices"

	"github.com/curfew-oidc/curfew/provider/admin"
)

// chooseAccount is the first page. Somebody with one account goes on to it.
func (c *console) chooseAccount(v *visit) error {
	accounts, err := c.cfg.Accounts(v.ctx(), v.r)
	if err != nil {
		return err
	}
	accounts = slices.DeleteFunc(slices.Clone(accounts), func(account string) bool {
		_, err := c.cfg.Authorize(v.ctx(), v.r, admin.ReadSettings, account)
		return err != nil
	})
	switch len(accounts) {
	case 0:
		return admin.ErrForbidden
	case 1:
		v.account = accounts[0]
		v.see(v.at(""), nil)
		return nil
	}
	c.render(v, http.StatusOK, "accounts", "Choose an account", "", accounts)
	return nil
}
