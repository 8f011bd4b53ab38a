package main

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newExplainCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain IDENTITY SEGMENT",
		Short: "Why an identity is in a segment, or not",
		Long: `Tells the rule, the facts that decide, since when an identity is in, and when time
alone changes it. With --at it is judged by the rule that answered then, over what is
kept of its history; notes say what that rests on where it is less than one may think.`,
		Example: "  kith explain browser:3f0c9a auto --key demo-key\n  kith explain browser:3f0c9a auto --at 2026-11-22T09:30:00Z --key demo-key",
		Args:    exactly(2, "an identity and a segment"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	at := cmd.Flags().String("at", "", "explain it as of this `TIME` (RFC 3339), by the rule of then")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"segment": {args[1]}}
		if *at != "" {
			if _, err := time.Parse(time.RFC3339, strings.ToUpper(*at)); err != nil {
				return usagef("--at %q is not a time: write it as 2026-11-22T09:30:00Z", *at)
			}
			query.Set("at", *at)
		}
		if _, err := proto.ParseIdentity(args[0]); err != nil {
			return usageError{err}
		}
		var x proto.Explanation
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/identities/"+url.PathEscape(args[0])+"/explain", query, nil, &x); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, x)
		}
		printExplanation(cmd, x)
		return nil
	}
	return cmd
}

func printExplanation(cmd *cobra.Command, x proto.Explanation) {
	verdict := "is not in"
	if x.In {
		verdict = "is in"
	}
	if x.Undecided {
		verdict = "may or may not have been in"
	}
	printf(cmd, "%s %s %s at %s\n", x.Identity, verdict, x.Segment, x.At.Format(time.RFC3339))
	if x.When != "" {
		printf(cmd, "  rule: %s\n", x.When)
	}
	for _, f := range x.Facts {
		mark := "no "
		if f.Holds {
			mark = "yes"
		}
		printf(cmd, "  %s  %s = %v\n", mark, f.Expr, f.Value)
		for _, e := range f.Events {
			printf(cmd, "         %s\n", e.Format(time.RFC3339))
		}
	}
	if x.Entered != nil {
		printf(cmd, "  entered %s\n", x.Entered.Format(time.RFC3339))
	}
	if x.Changes != nil {
		printf(cmd, "  time alone changes it %s\n", x.Changes.Format(time.RFC3339))
	}
	for _, n := range x.Notes {
		printf(cmd, "  note: %s\n", n)
	}
}
