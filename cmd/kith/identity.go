package main

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newIdentityCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "identity",
		Short:   "What is held of an identity, and its erasure",
		Example: "  kith identity show browser:3f0c9a --key demo-key\n  kith identity erase browser:3f0c9a --key demo-key",
	})
	cmd.AddCommand(newIdentityShowCommand(c), newIdentityEraseCommand(c))
	return cmd
}

func newIdentityShowCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show IDENTITY",
		Short:   "Everything that a client holds of an identity",
		Example: "  kith identity show browser:3f0c9a --key demo-key --json",
		Args:    exactly(1, "one identity, such as browser:abc"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	after := afterFlag(cmd, afterAnswer)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r proto.IdentityRecord
		if err := c.about(cmd, http.MethodGet, "/v1/identities/", args[0], after, &r); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, r)
		}
		printRecord(cmd, r)
		return nil
	}
	return cmd
}

func printRecord(cmd *cobra.Command, r proto.IdentityRecord) {
	switch {
	case r.OptedOut:
		printf(cmd, "%s (opted out)\n", r.Identity)
		return
	case !r.Known:
		printf(cmd, "%s (unknown)\n", r.Identity)
		return
	}
	printf(cmd, "%s\n", r.Identity)
	if r.FirstSeen != nil && r.LastSeen != nil {
		printf(cmd, "  seen from %s to %s\n", r.FirstSeen.Format(time.RFC3339), r.LastSeen.Format(time.RFC3339))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Traits)) {
		printf(cmd, "  trait %s = %v\n", name, r.Traits[name])
	}
	segments := make([]string, len(r.Segments))
	for i, s := range r.Segments {
		segments[i] = string(s)
	}
	printf(cmd, "  segments: %s\n", strings.Join(segments, " "))
	for _, e := range r.Events {
		printf(cmd, "  %s  %s  %s\n", e.Time.Format(time.RFC3339), e.Event, e.URL)
	}
	if r.Truncated {
		printf(cmd, "  older events were dropped at the bound\n")
	}
}

func newIdentityEraseCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erase IDENTITY",
		Short: "Forget an identity without opting it out",
		Long: `Erases what is held of an identity; it may come back, as a stranger. A client's key
erases what that client knows; so does an admin key with --client. An admin key without
--client (and KITH_CLIENT) erases everything, for all clients. It prints the receipt.`,
		Example: "  kith identity erase browser:3f0c9a --key demo-key\n  kith identity erase browser:3f0c9a --wait --key dev-admin-key > receipt.json",
		Args:    exactly(1, "one identity, such as browser:abc"),
	}
	c.flags(cmd)
	p := stateFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s proto.OptOutState
		if err := c.about(cmd, http.MethodDelete, "/v1/identities/", args[0], nil, &s); err != nil {
			return err
		}
		return p.print(cmd, c, s)
	}
	return cmd
}
