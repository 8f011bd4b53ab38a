package gateway_test

import "testing"

// Reports and totals: the floor is the key's, days have defaults, and report keys
// are told what to do instead.
func TestCampaigns(t *testing.T) {
	r := newRig(t)
	const told = `"impressions":null,"reach":null,"clicks":null,"clickers":null,"conversions":null,"converters":null,"click_through":null,"frequency":null,"days":null,`
	const rest = `"exact":false,"time":"0001-01-01T00:00:00Z","position":"","partitions":{"answered":0,"of":0}}`
	r.tell([]step{
		{"report", "acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1"}`, 200,
			`{"campaign":"c1","from":"2026-10-24","to":"2026-11-22","unit":"identities",` + told + `"below":50,` + rest},
		{"by admin", "admin-key", "POST", "/v1/campaigns/report?client=acme", `{"campaign":"c1","from":"2026-11-01","to":"2026-11-02","unit":"users","by":"creative"}`, 200,
			`{"campaign":"c1","from":"2026-11-01","to":"2026-11-02","unit":"users",` + told + `"by":"creative",` + rest},
		{"by admin, of whom", "admin-key", "POST", "/v1/campaigns/report", `{"campaign":"c1"}`, 400, "client"},
		{"a day as a number", "acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1","from":20261127}`, 400, "json"},
		{"of another client", "acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1","client":"demo"}`, 403, "forbidden"},
		{"by report", "acme-report", "POST", "/v1/campaigns/report", `{"campaign":"c1"}`, 403, "forbidden"},
		{"no key", "", "POST", "/v1/campaigns/report", `{"campaign":"c1"}`, 401, "unauthorized"},
		{"no campaign", "acme-key", "POST", "/v1/campaigns/report", `{}`, 400, "invalid"},
		{"no day", "acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1","from":"yesterday"}`, 400, "json"},
		{"no field", "acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1","floor":0}`, 400, "json"},
		{"no unit", "acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1","unit":"people"}`, 400, "invalid"},
		{"totals", "acme-key", "GET", "/v1/aggregates", "", 200,
			`{"by":"event","days":[{"day":"2026-10-24","new_identities":null},{"day":"2026-11-22","new_identities":null}],"below":50,"partitions":{"answered":0,"of":0}}`},
		{"totals, by admin", "admin-key", "GET", "/v1/aggregates?client=acme&by=campaign&from=2026-11-01&to=2026-11-01", "", 200,
			`{"by":"campaign","days":[{"day":"2026-11-01","new_identities":null},{"day":"2026-11-01","new_identities":null}],"partitions":{"answered":0,"of":0}}`},
		{"totals, by report", "acme-report", "GET", "/v1/aggregates", "", 403, "forbidden"},
		{"totals, no day", "acme-key", "GET", "/v1/aggregates?from=x", "", 400, "time"},
		{"totals, of another client", "acme-key", "GET", "/v1/aggregates?client=demo", "", 403, "forbidden"},
	})
}
