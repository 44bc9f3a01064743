import java.util.Arrays;
import java.util.List;
import java.util.function.BiConsumer;

import org.slf4j.LoggerFactory;
import org.springframework.transaction.event.TransactionPhase;
import org.springframework.transaction.event.TransactionalEventListener;

/**
 * Spring: after each commit, Redis is told which paths have changed, for {@code wake redis}.
 *
 * <p>It is a bean, and needs spring-tx and, for what publishes, spring-data-redis:
 *
 * <pre>
 * &#64;Bean LongPoll longPoll(StringRedisTemplate redis) { return new LongPoll(redis::convertAndSend); }
 * </pre>
 *
 * <p>Whoever changes something says so inside of the transaction, by an ApplicationEventPublisher:
 *
 * <pre>
 * events.publishEvent(new LongPoll.Changed("/api/orders/" + id, "/api/orders"));
 * </pre>
 */
public class LongPoll {
    private final BiConsumer<String, Object> publish; // to a channel, a message

    public LongPoll(BiConsumer<String, Object> publish) {
        this.publish = publish;
    }

    /** Paths at which something else is to be seen. */
    public static class Changed {
        final List<String> paths;

        public Changed(String... paths) {
            this.paths = Arrays.asList(paths);
        }
    }

    /** Has long_poll look at these paths now. Without Redis it does so at the next interval. */
    @TransactionalEventListener(phase = TransactionPhase.AFTER_COMMIT, fallbackExecution = true)
    public void changed(Changed event) {
        try {
            for (String path : event.paths) {
                publish.accept("long_poll:" + path, "");
            }
        } catch (RuntimeException e) {
            LoggerFactory.getLogger(LongPoll.class).warn("telling redis", e);
        }
    }
}
