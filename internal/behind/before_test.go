package behind_test

import "testing"

// TestBefore is of what lets nothing through to a handler, and of what only seems to.
func TestBefore(t *testing.T) {
	for _, test := range []struct{ name, block, want string }{
		{"nothing", "probe\nreverse_proxy b:80", ""},
		{"nothing at all", "probe", ""},
		{"redirect", "redir https://example.com\nprobe\nreverse_proxy b:80", "static_response"},
		{"redirect of some", "redir /old /new\nprobe\nreverse_proxy b:80", ""},
		{"in one route", "route {\nrespond ok\nprobe\n}", "static_response"},
		{"behind in one route", "route {\nprobe\nrespond ok\n}", ""},
		{"proxy", "route {\nreverse_proxy b:80\nprobe\n}", "reverse_proxy"},
		{"proxy of some", "route {\nreverse_proxy /a/* b:80\nprobe\n}", ""},
		{"proxy with handle_response", "route {\nreverse_proxy b:80 {\nhandle_response {\nheader A b\n}\n}\nprobe\n}", ""},
		{"early hints", "route {\nrespond 103\nprobe\n}", ""},
		{"files", "route {\nfile_server\nprobe\n}", "file_server"},
		{"files that are passed by", "route {\nfile_server {\npass_thru\n}\nprobe\n}", ""},
		{"error", "route {\nerror 404\nprobe\n}", "error"},
		{"the same matcher", "route {\nrespond /api/* ok\nprobe /api/*\n}", "static_response"},
		{"the same matcher, after a rewrite", "route {\nrespond /new ok\nrewrite /old /new\nprobe /new\n}", ""},
		{"the same matcher, after a proxy", "route {\nrespond /new ok\nreverse_proxy /b b:80\nprobe /new\n}", "static_response"},
		{"another matcher", "route {\nrespond /api/a ok\nprobe /api/*\n}", ""},
		{"the same methods", "route {\n@a method GET\n@b method GET\nrespond @a ok\nprobe @b\n}", "static_response"},
		{"other methods", "route {\n@a method PUT\n@b method GET\nrespond @a ok\nprobe @b\n}", ""},
		{"handle", "handle /api/* {\nprobe\n}\nhandle {\nrespond ok\n}", ""},
		{"handle in the wrong order", "route {\nhandle {\nrespond ok\n}\nhandle /api/* {\nprobe\n}\n}", "route of the same group"},
		{"around", "redir https://example.com\nhandle /api/* {\nprobe\n}", "static_response"},
		{"nested", "route {\nroute {\nrespond ok\n}\nprobe\n}", "static_response"},
		{"nested, of some", "route {\nroute /a {\nrespond ok\n}\nprobe\n}", ""},
		{"nested, some", "route {\nroute {\nrespond /a ok\n}\nprobe\n}", ""},
		{"authentication", "basic_auth {\na $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\nprobe\nreverse_proxy b:80", ""},
		{"errors", "handle_errors {\nroute {\nrespond ok\nprobe\n}\n}\nreverse_proxy b:80", "static_response"},
		{"after errors", "probe\nreverse_proxy b:80\nhandle_errors {\nrespond ok\n}", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			ask(t, adapt(t, ":8080 {\n"+test.block+"\n}\n"))
			told.Lock()
			defer told.Unlock()
			if got, ok := told.before[""]; !ok || got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("other sites", func(t *testing.T) {
		ask(t, adapt(t, "http://a.example {\nrespond ok\n}\nhttp://b.example {\nprobe\n}\nhttp:// {\nrespond ok\n}\n"))
		told.Lock()
		defer told.Unlock()
		if got := told.before[""]; got != "" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		ask(t, []byte(`{"admin": {"disabled": true}, "logging": {"logs": {"default": {"writer": {"output": "discard"}}}}, "apps": {"http": {"servers": {"a": {
			"listen": [":8080"], "automatic_https": {"disable": true},
			"routes": [{"terminal": true, "handle": [{"handler": "headers"}]}, {"handle": [{"handler": "probe"}]}]}}}}}`))
		told.Lock()
		defer told.Unlock()
		if got := told.before[""]; got != "terminal route" {
			t.Errorf("got %q", got)
		}
	})
}
