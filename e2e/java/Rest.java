import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

/**
 * Clients of a REST API with the JDK's own HTTP client, which offers h2c with each
 * request: `java Rest.java SITE N` runs N of them until its standard input ends, and
 * says a line of JSON for each value or error that one of them is told.
 */
class Rest {
    static final HttpClient http = HttpClient.newHttpClient();

    public static void main(String[] args) throws Exception {
        URI order = URI.create(args[0] + "/api/order");
        for (int client = 0; client < Integer.parseInt(args[1]); client++) {
            poll(client, order, null);
        }
        while (System.in.read() >= 0) {
        }
        System.exit(0);
    }

    static void poll(int client, URI order, String etag) {
        HttpRequest.Builder request = HttpRequest.newBuilder(order).timeout(Duration.ofSeconds(30)).header("Prefer", "wait=2");
        if (etag != null) {
            request.header("If-None-Match", etag);
        }
        http.sendAsync(request.build(), BodyHandlers.ofString()).whenComplete((answer, error) -> {
            if (error != null) {
                say(client, "error", error.toString());
            } else if (answer.statusCode() == 304 && etag != null) {
                poll(client, order, etag);
            } else if (answer.statusCode() != 200) {
                say(client, "error", answer + " " + answer.headers().map());
            } else {
                say(client, "value", answer.body().replaceAll("[^0-9]", ""));
                poll(client, order, answer.headers().firstValue("ETag").orElseThrow());
            }
        });
    }

    static synchronized void say(int client, String what, String text) {
        System.out.println("{\"client\":" + client + ",\"" + what + "\":\"" + text.replaceAll("[\\\\\"\\p{Cntrl}]", "'") + "\"}");
        System.out.flush();
    }
}
