<?php

namespace App\Models;

use Illuminate\Support\Facades\Log;
use Illuminate\Support\Facades\Redis;

/**
 * Laravel: after each commit, Redis is told which paths have changed, for `wake redis`.
 *
 * Put it into app/Models/LongPolled.php, and say in each model where it is to be seen:
 *
 *     class Order extends Model
 *     {
 *         use LongPolled;
 *
 *         public function longPollPaths(): array
 *         {
 *             return ["/api/orders/{$this->id}", '/api/orders'];
 *         }
 *     }
 *
 * Laravel puts a prefix before the names of channels too, so this takes a connection of
 * its own, below 'redis' in config/database.php:
 *
 *     'long_poll' => ['host' => env('REDIS_HOST', '127.0.0.1'), 'password' => env('REDIS_PASSWORD'),
 *         'port' => env('REDIS_PORT', 6379), 'options' => ['prefix' => '', 'timeout' => 1, 'read_timeout' => 1]],
 *
 * update() and delete() of a query send no events: call Order::longPollPublish() after
 * these, inside of DB::afterCommit.
 */
trait LongPolled
{
    public static function bootLongPolled(): void
    {
        $changed = function ($model) {
            $paths = $model->longPollPaths();
            $model->getConnection()->afterCommit(fn () => static::longPollPublish(...$paths));
        };
        static::saved($changed);
        static::deleted($changed);
    }

    /** Has long_poll look at these paths now. Without Redis it does so at the next interval. */
    public static function longPollPublish(string ...$paths): void
    {
        try {
            foreach ($paths as $path) {
                Redis::connection('long_poll')->publish("long_poll:$path", '');
            }
        } catch (\Throwable $error) {
            Log::warning("telling redis: {$error->getMessage()}");
        }
    }
}
