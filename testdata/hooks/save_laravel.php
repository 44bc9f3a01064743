<?php
// Saves orders by Eloquent, with the hook of examples/hooks/laravel: see
// examples_test.go.

// What Debian's package of Laravel 8 brings warns about itself under PHP 8.2.
error_reporting(E_ALL & ~E_DEPRECATED);
require '/usr/share/php/Illuminate/autoload.php';
require $argv[1];

use Illuminate\Container\Container;
use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\DatabaseTransactionsManager;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Events\Dispatcher;
use Illuminate\Redis\RedisManager;
use Illuminate\Support\Facades\Facade;

$app = new Container();
Facade::setFacadeApplication($app);
$server = parse_url($argv[2]);
$app->instance('redis', new RedisManager($app, 'phpredis', [
    'options' => ['prefix' => 'laravel_database_'],
    'long_poll' => ['host' => $server['host'], 'password' => null, 'port' => $server['port'],
        'options' => ['prefix' => '', 'timeout' => 1, 'read_timeout' => 1]],
]));
$app->instance('log', new class () {
    public function warning(string $text): void
    {
        fwrite(STDERR, "$text\n");
    }
});

$capsule = new Manager($app);
$capsule->addConnection(['driver' => 'sqlite', 'database' => ':memory:']);
$capsule->setEventDispatcher(new Dispatcher($app));
$capsule->setAsGlobal();
$capsule->bootEloquent();
$capsule->getConnection()->setTransactionManager(new DatabaseTransactionsManager());
Manager::schema()->create('orders', function ($table) {
    $table->increments('id');
    $table->text('status');
    $table->timestamps();
});

class Order extends Model
{
    use App\Models\LongPolled;

    protected $guarded = [];

    public function longPollPaths(): array
    {
        return ["/api/orders/{$this->id}", '/api/orders'];
    }
}

function step(string $text): void
{
    echo "$text\n";
    fgets(STDIN);
}

Manager::connection()->beginTransaction();
Order::create(['id' => 1, 'status' => 'lost']);
Manager::connection()->rollBack();
$order = Manager::connection()->transaction(function () {
    $order = Order::create(['id' => 7, 'status' => 'packing']);
    step('saved');
    return $order;
});
step('committed');
$order->delete();
step('deleted');
Order::create(['id' => 8, 'status' => 'packing']);
echo "without redis\n";
