package main

import (
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

func audiencePath(id string) string { return "/v1/audiences/" + url.PathEscape(id) }

func newAudienceSaveCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "save NAME EXPR",
		Short: "Keep an audience under a name",
		Long:  "Keeps an expression under a name, or replaces it. Other expressions may name it\nas @NAME, and get what it is when they are counted.",
		Example: `  kith audience save car-fans 'auto & !buyers' --key demo-key
  kith audience count '@car-fans & sport-today' --key demo-key`,
		Args: exactly(2, "a name and an expression, in quotes"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	description := cmd.Flags().String("description", "", "what it is for")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := proto.AudienceSpec{Expr: args[1], Description: *description}
		var out proto.AudienceSpec
		if err := c.call(cmd.Context(), http.MethodPut, audiencePath(args[0]), nil, in, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printf(cmd, "saved @%s\n", args[0])
		return nil
	}
	return cmd
}

func newAudienceListCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "All saved audiences of the client",
		Example: "  kith audience list --key demo-key --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var out struct {
			Audiences []proto.AudienceSpec `json:"audiences"`
		}
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/audiences", nil, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tEXPRESSION\tDESCRIPTION")
		for _, s := range out.Audiences {
			fmt.Fprintf(w, "@%s\t%s\t%s\n", s.ID, s.Expr, s.Description)
		}
		return w.Flush()
	}
	return cmd
}

func newAudienceShowCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "One saved audience",
		Example: "  kith audience show car-fans --key demo-key",
		Args:    exactly(1, "a saved audience's name"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s proto.AudienceSpec
		if err := c.call(cmd.Context(), http.MethodGet, audiencePath(args[0]), nil, nil, &s); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, s)
		}
		printf(cmd, "name:        @%s\nexpression:  %s\n", s.ID, s.Expr)
		if s.Description != "" {
			printf(cmd, "description: %s\n", s.Description)
		}
		return nil
	}
	return cmd
}

func newAudienceDeleteCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Forget a saved audience",
		Example: "  kith audience delete car-fans --key demo-key",
		Args:    exactly(1, "a saved audience's name"),
	}
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.call(cmd.Context(), http.MethodDelete, audiencePath(args[0]), nil, nil, nil); err != nil {
			return err
		}
		printf(cmd, "deleted @%s\n", args[0])
		return nil
	}
	return cmd
}
