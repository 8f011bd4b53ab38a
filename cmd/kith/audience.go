package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newAudienceCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "audience",
		Short:   "Set expressions over segments",
		Example: "  kith audience count 'auto & !buyers' --key demo-key",
	})
	cmd.AddCommand(newAudienceCountCommand(c), newAudienceOverlapCommand(c), newAudienceReachCommand(c), newAudienceExportCommand(c),
		newAudienceSaveCommand(c), newAudienceListCommand(c), newAudienceShowCommand(c), newAudienceDeleteCommand(c))
	return cmd
}

func newAudienceCountCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "count EXPR",
		Short: "How many are in an audience",
		Long:  "Counts an audience: segments, and saved audiences as @NAME, joined with & (and),\n| (or), ! (not) and parentheses.",
		Example: `  kith audience count 'auto & !(buyers | lively)' --key demo-key
  kith audience count auto --client demo --key dev-admin-key --json`,
		Args: exactly(1, "one expression, in quotes"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	unit := unitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var n proto.Count
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/audiences/count", nil, map[string]string{"expr": args[0], "unit": *unit}, &n); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(cmd, n)
		case n.Count == nil:
			printf(cmd, "fewer than %d\n", n.Below)
		default:
			printf(cmd, "%d\n", *n.Count)
		}
		printInexact(cmd, n.Exact || n.Rounded > 0, n.Partitions)
		return nil
	}
	return cmd
}
