// Package ibmtest has no code of its own: its tests read and write the account
// settings of provider/admin with IBM's unchanged client,
// github.com/IBM/platform-services-go-sdk.
package ibmtest
