package main

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newUserCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user IDENTITY",
		Short: "Who an identity is one person with",
		Long: `Shows the identities of the user that an identity belongs to, and the links that join
them; then, if the client infers households, devices of others that share networks
with them.`,
		Example: `  kith user browser:3f0c9a --key demo-key
  kith user account:77 --client demo --key dev-admin-key --json`,
		Args: exactly(1, "one identity, such as browser:abc"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	after := afterFlag(cmd, afterAnswer)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var u proto.User
		if err := c.about(cmd, http.MethodGet, "/v1/users/", args[0], after, &u); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, u)
		}
		printUser(cmd, u)
		return nil
	}
	return cmd
}

func printUser(cmd *cobra.Command, u proto.User) {
	printf(cmd, "user of %d, root %s\n", len(u.Members), u.Root)
	for _, m := range u.Members {
		printf(cmd, "  %s\n", m)
	}
	for _, e := range u.Edges {
		printf(cmd, "  %s -- %s  %s %.3g by %s at %s\n", e.A, e.B, e.Method, e.Confidence, e.Client, e.Time.Format(time.RFC3339))
	}
	for _, e := range u.Household {
		printf(cmd, "  %s .. %s  %s, %s %.3g, %d days up to %s\n", e.A, e.B, e.Kind, e.Method, e.Confidence, e.Days, e.Last)
	}
}

// checkIdentities makes an identity that is none wrong usage.
func checkIdentities(args ...string) error {
	for _, a := range args {
		if _, err := proto.ParseIdentity(a); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// about makes a request about the identity whose name ends the path.
func (c *connection) about(cmd *cobra.Command, method, path, id string, after *string, out any) error {
	if err := checkIdentities(id); err != nil {
		return err
	}
	query := url.Values{}
	if after != nil && *after != "" {
		query.Set("after", *after)
	}
	return c.call(cmd.Context(), method, path+url.PathEscape(id), query, nil, out)
}
