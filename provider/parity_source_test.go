package provider_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What an assertion means for a decorated storage.
const (
	advertised     = "storage: advertised; the decorated storage has it if and only if the storage has (wrap.go), see TestSixteenStorages"
	ownEnum        = "not about what a storage returns: op's own enum types"
	onProvider     = "on the provider, which nobody wraps"
	ownAuthRequest = "on the storage's auth request, which is handed on as it is: TestStorageSeesItsOwn"
	parsedOrOwn    = "on the parsed request or on the storage's auth request; neither is wrapped"
	onClient       = "on a client: wrapClient keeps it, see TestClientsStayWhatTheyAre"
	kindOfRequest  = "the kind of a token request, which is handed on as it is; a refusedRequest stands in only for a RefreshTokenRequest, and is one"
)

// assertionsOfOp says of every type assertion and every case of a type switch
// in op's package what it means for a decorated storage. The key is the
// function, what is asserted and the type. op may add one in any release; then
// TestAssertionsOfOp fails until somebody has read it and added it here.
var assertionsOfOp = map[string]string{
	"*AccessTokenType.Scan: switch value.([]byte)":                                             ownEnum,
	"*AccessTokenType.Scan: switch value.(fmt.Stringer)":                                       ownEnum,
	"*AccessTokenType.Scan: switch value.(string)":                                             ownEnum,
	"*AccessTokenType.UnmarshalGQL: value.(string)":                                            ownEnum,
	"*ApplicationType.Scan: switch value.([]byte)":                                             ownEnum,
	"*ApplicationType.Scan: switch value.(fmt.Stringer)":                                       ownEnum,
	"*ApplicationType.Scan: switch value.(string)":                                             ownEnum,
	"*ApplicationType.UnmarshalGQL: value.(string)":                                            ownEnum,
	"*LegacyServer.ClientCredentialsExchange: s.provider.Storage().(ClientCredentialsStorage)": advertised,
	"*LegacyServer.EndSession: s.provider.Storage().(CanTerminateSessionFromRequest)":          "storage: always there, and does what op does without it",
	"*LegacyServer.JWTProfile: s.provider.(JWTAuthorizationGrantExchanger)":                    onProvider,
	"*LegacyServer.VerifyClient: s.provider.(JWTAuthorizationGrantExchanger)":                  onProvider,
	"*LegacyServer.VerifyClient: s.provider.Storage().(ClientCredentialsStorage)":              advertised,
	"*LegacyServer.authenticateResourceClient: s.provider.(ClientJWTProfile)":                  onProvider,
	"*Provider.GrantTypeClientCredentialsSupported: o.storage.(ClientCredentialsStorage)":      advertised,
	"*Provider.GrantTypeDeviceCodeSupported: o.storage.(DeviceAuthorizationStorage)":           advertised,
	"*Provider.GrantTypeTokenExchangeSupported: o.storage.(TokenExchangeStorage)":              advertised,
	"AuthRequestError: authReq.(AuthRequestSessionState)":                                      parsedOrOwn,
	"AuthRequestError: authReq.(LogAuthRequest)":                                               parsedOrOwn,
	"AuthRequestError: authReq.(interface{GetResponseMode() oidc.ResponseMode})":               parsedOrOwn,
	"Authorize: authorizer.(AuthorizeValidator)":                                               onProvider,
	"AuthorizeCodeClient: exchanger.(JWTAuthorizationGrantExchanger)":                          onProvider,
	"AuthorizeRefreshClient: exchanger.(JWTAuthorizationGrantExchanger)":                       onProvider,
	"BuildAuthResponseCodeResponsePayload: authReq.(AuthRequestSessionState)":                  ownAuthRequest,
	"ClientIDFromRequest: p.(ClientJWTProfile)":                                                onProvider,
	"CreateDeviceTokenResponse: tokenRequest.(IDTokenRequest)":                                 kindOfRequest,
	"CreateIDToken: request.(AuthRequest)":                                                     kindOfRequest,
	"CreateIDToken: request.(TokenActorRequest)":                                               kindOfRequest,
	"CreateIDToken: request.(TokenExchangeRequest)":                                            kindOfRequest,
	"CreateIDToken: storage.(CanSetUserinfoFromRequest)":                                       "storage: always there, for sid; calls the storage's own if it has it",
	"CreateIDToken: storage.(TokenExchangeStorage)":                                            advertised,
	"CreateJWT: storage.(CanGetPrivateClaimsFromRequest)":                                      advertised,
	"CreateJWT: storage.(TokenExchangeStorage)":                                                advertised,
	"CreateJWT: tokenRequest.(TokenActorRequest)":                                              kindOfRequest,
	"CreateJWT: tokenRequest.(TokenExchangeRequest)":                                           kindOfRequest,
	"CreateJWTTokenResponse: creator.Storage().(JWTProfileTokenStorage)":                       "storage: always there, and gives op's default type without the storage's own",
	"CreateRouter: o.(corsOptioner)":                                                           onProvider,
	"CreateTokenExchangeRequest: exchanger.Storage().(TokenExchangeStorage)":                   advertised,
	"CreateTokenResponse: request.(AuthRequest)":                                               kindOfRequest,
	"EndSession: ender.Storage().(CanTerminateSessionFromRequest)":                             "storage: always there, and does what op does without it",
	"Exchange: exchanger.(JWTAuthorizationGrantExchanger)":                                     onProvider,
	"GetTokenIDAndSubjectFromToken: exchanger.Storage().(TokenExchangeTokensVerifierStorage)":  "storage: always there; without the storage's own it gives an error, which op treats alike",
	"IssuerFromContext: ctx.Value(issuerKey).(string)":                                         "not about what a storage returns",
	"ParseAuthenticatedTokenRequest: request.(AuthenticatedTokenRequestAuthMethodChecker)":     "on op's parsed request, before any storage is asked",
	"ParseTokenRevocationRequest: revoker.(RevokerJWTProfile)":                                 onProvider,
	"Scopes: c.(*Provider)":                                                                    onProvider,
	"SupportedClaims: c.(*Provider)":                                                           onProvider,
	"TenantFromContext: ctx.Value(tenantKey).(string)":                                         "not about what a storage returns",
	"TryErrorRedirect: authReq.(AuthRequestSessionState)":                                      parsedOrOwn,
	"TryErrorRedirect: authReq.(LogAuthRequest)":                                               parsedOrOwn,
	"TryErrorRedirect: authReq.(interface{GetResponseMode() oidc.ResponseMode})":               parsedOrOwn,
	"ValidateClientCredentialsRequest: exchanger.Storage().(ClientCredentialsStorage)":         advertised,
	"ValidateEndSessionPostLogoutRedirectURI: client.(HasRedirectGlobs)":                       onClient,
	"assertDeviceStorage: s.(DeviceAuthorizationStorage)":                                      advertised,
	"checkURIAgainstRedirects: client.(HasRedirectGlobs)":                                      onClient,
	"matchFromContext: ctx.Value(metadataMatchKey{}).(*metadataMatch)":                         "not about what a storage returns",
	"needsRefreshToken: switch tokenRequest.(*DeviceAuthorizationState)":                       kindOfRequest,
	"needsRefreshToken: switch tokenRequest.(AuthRequest)":                                     kindOfRequest,
	"needsRefreshToken: switch tokenRequest.(RefreshTokenRequest)":                             kindOfRequest,
	"needsRefreshToken: switch tokenRequest.(TokenExchangeRequest)":                            kindOfRequest,
}

// TestAssertionsOfOp compares the table with the source of op as built.
func TestAssertionsOfOp(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, file := range parsed(t, "pkg/op") {
		for _, decl := range file.Decls {
			name := "var"
			if f, ok := decl.(*ast.FuncDecl); ok {
				name = f.Name.Name
				if f.Recv != nil {
					name = types.ExprString(f.Recv.List[0].Type) + "." + name
				}
			}
			for _, a := range assertions(decl) {
				found[name+": "+a] = true
			}
		}
	}
	require.NotEmpty(t, found)
	for key := range found {
		if _, ok := assertionsOfOp[key]; !ok {
			t.Errorf("op asserts something that is not in the table: %q", key)
		}
	}
	for key, reason := range assertionsOfOp {
		require.NotEmpty(t, reason, "%q has no reason", key)
		require.Contains(t, found, key, "op does not assert this any more")
	}
}

// assertions returns the type assertions in n as text.
func assertions(n ast.Node) []string {
	var list []string
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.TypeAssertExpr:
			if n.Type != nil {
				list = append(list, types.ExprString(n.X)+".("+types.ExprString(n.Type)+")")
			}
		case *ast.TypeSwitchStmt:
			var of ast.Expr
			switch a := n.Assign.(type) {
			case *ast.AssignStmt:
				of = a.Rhs[0].(*ast.TypeAssertExpr).X
			case *ast.ExprStmt:
				of = a.X.(*ast.TypeAssertExpr).X
			}
			for _, clause := range n.Body.List {
				for _, typ := range clause.(*ast.CaseClause).List {
					list = append(list, "switch "+types.ExprString(of)+".("+types.ExprString(typ)+")")
				}
			}
		}
		return true
	})
	return list
}

// parsed returns the files of a package of op's module, without tests.
func parsed(t *testing.T, folder string) map[string]*ast.File {
	t.Helper()
	dir := filepath.Join(sourceOfOp(t), filepath.FromSlash(folder))
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	files := map[string]*ast.File{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files[filepath.Base(path)] = file
	}
	require.NotEmpty(t, files)
	return files
}

// constantsOf returns the values of op's constants of one type in pkg/oidc.
func constantsOf(t *testing.T, typ string) []string {
	t.Helper()
	var list []string
	for _, file := range parsed(t, "pkg/oidc") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for _, value := range spec.Values {
				typed := spec.Type != nil && types.ExprString(spec.Type) == typ
				if call, ok := value.(*ast.CallExpr); ok && types.ExprString(call.Fun) == typ {
					typed, value = true, call.Args[0]
				}
				if typed {
					text, err := strconv.Unquote(types.ExprString(value))
					require.NoError(t, err)
					list = append(list, text)
				}
			}
			return true
		})
	}
	require.NotEmpty(t, list, "op has no constants of type %s any more", typ)
	return list
}

// casesOf returns the names of oidc's constants that a switch in a function of
// op has a case for; a case of another form is returned as it is written.
func casesOf(t *testing.T, function string) []string {
	t.Helper()
	names := map[string]bool{}
	for _, file := range parsed(t, "pkg/op") {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Name.Name != function {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if clause, ok := n.(*ast.CaseClause); ok {
					for _, expr := range clause.List {
						if text := types.ExprString(expr); text != `""` {
							names[strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(text, "string("), ")"), "oidc.")] = true
						}
					}
				}
				return true
			})
		}
	}
	require.NotEmpty(t, names, "op has no switch in %s any more", function)
	return slices.Sorted(maps.Keys(names))
}
