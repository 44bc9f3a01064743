import java.io.IOException;
import java.net.Socket;
import java.net.URI;
import java.util.Scanner;
import java.util.function.BiConsumer;

import org.springframework.context.support.GenericApplicationContext;
import org.springframework.context.annotation.AnnotationConfigUtils;
import org.springframework.beans.factory.support.RootBeanDefinition;
import org.springframework.transaction.TransactionDefinition;
import org.springframework.transaction.event.TransactionalEventListenerFactory;
import org.springframework.transaction.support.AbstractPlatformTransactionManager;
import org.springframework.transaction.support.DefaultTransactionStatus;
import org.springframework.transaction.support.TransactionTemplate;

/**
 * Changes orders in transactions of Spring, with the hook of examples/hooks/spring: see
 * examples_test.go. There is no database, and a socket in place of spring-data-redis,
 * which Debian does not have.
 */
public class SaveSpring {
    static final Scanner in = new Scanner(System.in);

    static void step(String text) {
        System.out.println(text);
        in.nextLine();
    }

    public static void main(String[] args) {
        URI server = URI.create(args[0]);
        BiConsumer<String, Object> publish = (channel, message) -> {
            try (Socket s = new Socket(server.getHost(), server.getPort())) {
                s.getOutputStream().write(("PUBLISH " + channel + " \"" + message + "\"\r\n").getBytes());
                s.getInputStream().read();
            } catch (IOException e) {
                throw new IllegalStateException(e);
            }
        };
        GenericApplicationContext context = new GenericApplicationContext();
        AnnotationConfigUtils.registerAnnotationConfigProcessors(context);
        context.registerBeanDefinition("factory", new RootBeanDefinition(TransactionalEventListenerFactory.class));
        RootBeanDefinition hook = new RootBeanDefinition(LongPoll.class);
        hook.getConstructorArgumentValues().addGenericArgumentValue(publish);
        context.registerBeanDefinition("longPoll", hook);
        context.refresh();

        TransactionTemplate transaction = new TransactionTemplate(new AbstractPlatformTransactionManager() {
            @Override protected Object doGetTransaction() { return this; }
            @Override protected void doBegin(Object transaction, TransactionDefinition definition) {}
            @Override protected void doCommit(DefaultTransactionStatus status) {}
            @Override protected void doRollback(DefaultTransactionStatus status) {}
        });
        transaction.execute(status -> {
            context.publishEvent(new LongPoll.Changed("/api/orders/1", "/api/orders"));
            status.setRollbackOnly();
            return null;
        });
        transaction.execute(status -> {
            context.publishEvent(new LongPoll.Changed("/api/orders/7", "/api/orders"));
            step("saved");
            return null;
        });
        step("committed");
        context.publishEvent(new LongPoll.Changed("/api/orders/7", "/api/orders")); // in no transaction
        step("deleted");
        context.publishEvent(new LongPoll.Changed("/api/orders/8", "/api/orders"));
        System.out.println("without redis");
    }
}
